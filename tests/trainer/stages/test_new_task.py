"""The cost of a new task: a package, one line in the table of tasks, and the task's name at its metrics."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import finetune_trainer
from finetune_trainer.config import (
    Dataset,
    EvaluationSpec,
    HeldOut,
    JobRef,
    ModelSource,
    Run,
    StoreAccess,
    Stores,
    TrainConfig,
    Training,
    TrainSplit,
)
from finetune_trainer.contract import Stage, TerminationMessage
from finetune_trainer.models import base_model
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store

NEW_LINE = '    "TextLength": "text_length",\n'
FIRST_LINE = '    "TextClassification": "text_classification",\n'
METRIC = 'Metric("accuracy", "accuracy", higher_is_better=True, tasks=("TextClassification",)'
MODULES = {
    "__init__": '"""Whether a text is long or short."""\n',
    "data": """
from collections.abc import Mapping
from typing import Any

from finetune_trainer.config import Run
from finetune_trainer.tasks.text_classification.data import *  # noqa: F403
from finetune_trainer.tasks.text_classification.data import LabelledText


def example(line: int, values: Mapping[str, Any], run: Run) -> LabelledText | str:
    text = str(values["text"])
    return LabelledText(line, text, "long" if len(text) > 40 else "short")


def missing_columns(present, run):
    return tuple({"text"} - set(present))
""",
    "model": "from finetune_trainer.tasks.text_classification.model import *  # noqa: F403\n",
    "metrics": "from finetune_trainer.tasks.text_classification.metrics import *  # noqa: F403\n",
    "report": """
from finetune_trainer.tasks.text_classification.report import *  # noqa: F403


def kind(record):
    return "A model that tells long texts from short ones"
""",
}
"""A task that differs from text classification in its rows and in its report."""


def with_new_task(folder: Path) -> Path:
    """A copy of the trainer with one more task: its package, and a changed `contract/tasks.py`."""
    copied = folder / "finetune_trainer"
    copytree(Path(finetune_trainer.__file__).parent, copied)
    table = copied / "contract/tasks.py"
    text = table.read_text()
    assert FIRST_LINE in text
    assert METRIC in text
    text = text.replace(FIRST_LINE, FIRST_LINE + NEW_LINE)
    table.write_text(text.replace(METRIC, METRIC[:-1] + ' "TextLength"), primary=True'))
    package = copied / "tasks/text_length"
    package.mkdir()
    for name, content in MODULES.items():
        (package / f"{name}.py").write_text(content)
    return folder


def test_a_new_task_is_a_package_and_its_name_in_the_tables(
    tmp_path: Path, tiny_base: Path, store: Store, bucket: str, access: StoreAccess, paths: Paths
) -> None:
    home, trainer = f"s3://{bucket}/", with_new_task(tmp_path / "trainer")
    for name in ("config.json", "model.safetensors", *base_model.TOKENIZER_FILES):
        if (tiny_base / name).is_file():
            store.upload(tiny_base / name, f"{home}base/{name}")
    rows = [json.dumps({"text": f"row {number} " + "word " * (number % 20)}) for number in range(200)]
    store.write(f"{home}train.jsonl", "\n".join(rows).encode())
    config = TrainConfig(
        stage=Stage.PREPARE,
        attempt=1,
        job=JobRef(namespace="team", name="lengths", uid="0123456789abcdef", generation=1),
        # The tables of this process do not have the task; the subprocess checks the task's name.
        run=Run.model_construct(
            **dict(
                Run(
                    task="TextClassification",
                    model=ModelSource(uri=f"{home}base"),
                    dataset=Dataset(
                        train=TrainSplit(uri=f"{home}train.jsonl"),
                        validation=HeldOut(split=0.2),
                        test=HeldOut(split=0.2),
                    ),
                    training=Training(epochs=1, batch_size=16, max_length=16),
                    evaluation=EvaluationSpec(metrics=("accuracy",), primary_metric="accuracy"),
                    output=f"{home}models/lengths/",
                    runs=f"{home}runs/",
                    stores=Stores(data=access, model=access, output=access),
                )
            )
            | {"task": "TextLength"}
        ),
    )
    paths.config.parent.mkdir(parents=True, exist_ok=True)

    def run_stage(stage: Stage, **given: object) -> TerminationMessage:
        document = config.model_copy(update={"stage": stage, **given})
        paths.config.write_text(document.model_dump_json(by_alias=True))
        ended = subprocess.run(
            [sys.executable, "-m", "finetune_trainer", "--root", str(paths.root), "--port", "0"],
            env={**os.environ, "PYTHONPATH": str(trainer), "OMP_NUM_THREADS": "1", "POD_UID": stage.lower()},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        message = TerminationMessage.decode(paths.termination_log.read_bytes())
        assert ended.returncode == 0, (message, ended.stderr[-4000:])
        return message

    prepared = run_stage(Stage.PREPARE).payload
    assert prepared.labels == 2
    given = {"chosen": prepared.chosen, "prepared": prepared.data_digest}
    assert run_stage(Stage.TRAIN, **given).payload.evaluation.primary_metric == "accuracy"
    published = run_stage(Stage.PUBLISH, **given).payload
    card = store.read(f"{published.uri}README.md").decode()
    assert "A model that tells long texts from short ones" in card
