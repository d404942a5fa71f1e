"""What is trained on what by whom: the cases, and their rows as the product's Prepare makes them."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.train_throughput.lesson import Lesson
from devcluster.places import REPOSITORY
from finetune_trainer.config import (
    Dataset,
    EvaluationSpec,
    HeldOut,
    ModelSource,
    Run,
    StoreAccess,
    Stores,
    TrainSplit,
)
from finetune_trainer.contract import METRICS, Task
from finetune_trainer.data import tokenise
from finetune_trainer.data.example import Encoding, Example
from finetune_trainer.data.lines import ONE_FILE, FileSpan
from finetune_trainer.data.shards import Split
from finetune_trainer.tasks.registry import data_of

SECTIONS = REPOSITORY / "examples/data/debian-sections/train.jsonl"
QUESTION = "\n\nIn one line: "
PLAIN = "Trainer, padded"
OURS = "ours"


@dataclass(frozen=True)
class Contender:
    """Somebody's way to train.

    Attributes:
        name: in the tables.
        module: of this package.
        way: see the module.
    """

    name: str
    module: str
    way: str

    @property
    def has_own_environment(self) -> bool:
        """Whether it needs what the product does not."""
        return self.module == "sft"


@dataclass(frozen=True)
class Case:
    """One task on one model.

    Attributes:
        name: in the tables.
        task: what is learnt.
        model: folder, see `models`.
        rows: how many, a multiple of `batch`.
        batch: rows of an optimizer step.
        micro_batch: rows of a forward pass.
        learning_rate: its highest.
        longest: tokens of a row; what is longer is cut.
        contenders: in their order.
    """

    name: str
    task: Task
    model: str
    rows: int
    batch: int
    micro_batch: int
    learning_rate: float
    longest: int
    contenders: tuple[Contender, ...]


CLASSIFICATION = Case(
    name="classification",
    task="TextClassification",
    model="minilm",
    rows=64,
    batch=16,
    micro_batch=16,
    learning_rate=5e-5,
    longest=256,
    contenders=(
        Contender(PLAIN, "plain", "padded"),
        Contender(OURS, "ours", "product"),
    ),
)
GENERATION = Case(
    name="generation",
    task="TextGeneration",
    model="llama",
    rows=96,
    batch=32,
    micro_batch=8,
    learning_rate=2e-4,
    longest=512,
    contenders=(
        Contender(PLAIN, "plain", "padded"),
        Contender("Trainer, flattened", "plain", "flattened"),
        Contender("SFTTrainer, padded", "sft", "padded"),
        Contender("SFTTrainer, padding-free", "sft", "paddingFree"),
        Contender("SFTTrainer, packed", "sft", "packed"),
        Contender("ours, all padded", "ours", "padded"),
        Contender("ours, all packed", "ours", "packed"),
        Contender(OURS, "ours", "product"),
    ),
)
CASES = (CLASSIFICATION, GENERATION)


def make_models(folder: Path) -> None:
    """Makes the models' folders, in a process of its own: here torch stays away from the tokenizers."""
    command = [sys.executable, "-m", "bench.train_throughput.models", str(folder), str(SECTIONS)]
    subprocess.run(command, cwd=REPOSITORY, check=True)  # noqa: S603


def lessons(case: Case, folder: Path, epochs: int) -> list[Lesson]:
    """What each contender is given.

    Args:
        case: the case.
        folder: with the models; the rows are written there.
        epochs: times that every row is seen.
    """
    rows = folder / f"{case.name}.npz"
    write_rows(case, folder / case.model, rows)
    lesson = Lesson(
        task=case.task,
        way="",
        base=str(folder / case.model),
        rows=str(rows),
        count=case.rows,
        batch=case.batch,
        micro_batch=case.micro_batch,
        epochs=epochs,
        learning_rate=case.learning_rate,
    )
    return [replace(lesson, way=contender.way) for contender in case.contenders]


def write_rows(case: Case, base: Path, target: Path) -> int:
    """Tokenises the first rows that can be used, as Prepare does; returns their tokens."""
    task, run = data_of(case.task), _run(case)
    found = (task.example(line, values, run) for line, values in enumerate(_values(case), start=1))
    examples = [row for row in found if not isinstance(row, str)][: case.rows]
    tokenizer = tokenise.load_tokenizer(base)
    whole = task.encode(tokenizer, examples, run)
    encoded = task.truncate(tokenizer, examples, whole, case.longest)
    strata = [example.stratum for example in examples]
    classes = list(task.classes(set(strata)))
    labels = np.array([classes.index(name) if classes else 0 for name in strata], np.int32)
    split = as_split(examples, encoded, labels, ONE_FILE)
    np.savez(
        target, tokens=split.tokens, offsets=split.offsets, labels=split.labels, loss_mask=split.loss_mask
    )
    return len(split.tokens)


def _values(case: Case) -> list[dict[str, Any]]:
    """The example's rows; for generation a package's long description, to be summed up in its short one."""
    rows = [json.loads(line) for line in SECTIONS.read_text("utf-8").splitlines()]
    if case.task == "TextClassification":
        return rows
    parts = [row["text"].partition("\n") for row in rows]
    return [{"prompt": long + QUESTION, "completion": short} for short, _, long in parts if long]


def _run(case: Case) -> Run:
    """A run with everything by default but its task."""
    store = StoreAccess(endpoint="https://store.example")
    return Run(
        task=case.task,
        model=ModelSource(uri="s3://bench/model"),
        dataset=Dataset(
            train=TrainSplit(uri="s3://bench/rows"),
            validation=HeldOut(split=0.1),
            test=HeldOut(split=0.1),
        ),
        evaluation=EvaluationSpec(metrics=METRICS[case.task]),
        output="s3://bench/output/",
        runs="s3://bench/runs/",
        stores=Stores(data=store, model=store, output=store),
    )


def as_split(
    examples: Sequence[Example],
    encoded: Sequence[Encoding],
    labels: npt.NDArray[np.int32],
    files: Sequence[FileSpan],
) -> Split:
    """Examples and their tokens as the arrays that training reads."""
    return Split(
        tokens=np.concatenate([*(row.ids for row in encoded), np.zeros(0, dtype=np.int32)]),
        loss_mask=np.concatenate([*map(_mask, encoded), np.zeros(0, dtype=np.bool_)]),
        offsets=np.cumsum([0, *(len(row.ids) for row in encoded)], dtype=np.int64),
        labels=labels,
        rows=np.array([example.line for example in examples], dtype=np.int64),
        files=tuple(files),
    )


def _mask(row: Encoding) -> npt.NDArray[np.bool_]:
    return np.zeros(len(row.ids), dtype=np.bool_) if row.loss_mask is None else row.loss_mask
