"""The example debian-summaries with its real model, through Prepare, Train and Publish as pods run them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples import fetch_smollm2, make_debian_summaries
from finetune_operator.api import FineTuneJob
from finetune_trainer.config import JobRef, StoreAccess, Stores, TrainConfig, World
from finetune_trainer.contract import (
    PreparePayload,
    PublishPayload,
    Stage,
    TerminationMessage,
    TrainPayload,
)
from finetune_trainer.s3.store import Store
from tests.operator import scenes

EXAMPLE = Path(__file__).parents[3] / "examples/debian-summaries.yaml"
ROWS = {"train": 48, "validation": 8, "test": 24}
"""Fewer rows than the example has, and one process instead of two pods, so that the test takes less time."""
UNTRAINED_LOSS = 10.8
"""The loss of a model without any knowledge: the logarithm of the number of tokens in the vocabulary."""


@pytest.fixture
def summaries(store: Store, bucket: str, access: StoreAccess, tmp_path: Path) -> TrainConfig:
    """The config that the operator renders from the example, with one process."""
    make_debian_summaries.make(tmp_path / "rows", **ROWS)
    for folder, home in (
        (tmp_path / "rows", "datasets/debian-summaries"),
        (fetch_smollm2.converted(), "models/smollm2-135m-instruct"),
    ):
        for file in sorted(folder.iterdir()):
            store.upload(file, f"s3://{bucket}/{home}/{file.name}")
    document = yaml.safe_load(EXAMPLE.read_text().replace("s3://", f"s3://{bucket}/"))
    document["metadata"] |= {"uid": scenes.UID, "generation": 1}
    run = scenes.asked_of(FineTuneJob.model_validate(document), scenes.settings()).run
    here = {"world": World(), "stores": Stores(data=access, model=access, output=access)}
    return TrainConfig(
        stage=Stage.PREPARE,
        attempt=1,
        job=JobRef(namespace="demo", name="debian-summaries", uid=scenes.UID, generation=1),
        run=run.model_copy(update=here),
    )


def test_a_real_instruct_model_learns_to_summarise(
    summaries: TrainConfig, pod: Callable[[TrainConfig], TerminationMessage], store: Store, tmp_path: Path
) -> None:
    prepared = pod(summaries).payload
    assert isinstance(prepared, PreparePayload)
    assert prepared.rows.model_dump() == {**ROWS, "dropped": 0}
    assert prepared.truncated_tokens == 0
    assert prepared.parameters == 134_515_008
    given = {"chosen": prepared.chosen, "prepared": prepared.data_digest}
    trained = pod(summaries.model_copy(update={"stage": Stage.TRAIN, **given})).payload
    assert isinstance(trained, TrainPayload)
    evaluation = trained.evaluation
    assert evaluation.rows == ROWS["test"]
    assert evaluation.baseline.primary < UNTRAINED_LOSS / 2
    assert evaluation.delta
    assert evaluation.delta.metrics["loss"].high < 0
    assert evaluation.delta.metrics["tokenAccuracy"].low > 0
    published = pod(summaries.model_copy(update={"stage": Stage.PUBLISH, **given})).payload
    assert isinstance(published, PublishPayload)
    check_report(store.read(published.report).decode())

    # A stranger with nothing but the folder can use it, and gets the answers that were reported.
    folder = tmp_path / "model"
    for entry in store.list(published.uri):
        store.download(entry.uri, folder / entry.uri.removeprefix(published.uri))
    reported = json.loads((folder / "report.json").read_text())["task"]["continuations"][0]
    test = (tmp_path / "rows/test.jsonl").read_text(encoding="utf-8").splitlines()
    question = json.loads(test[reported["line"] - 1])["messages"][:2]
    assert answer(folder, question) == reported["tuned"] != reported["base"]


def check_report(page: str) -> None:
    assert "Better than the base model: loss" in page
    assert "Before and after" in page
    assert make_debian_summaries.TASK in page


def answer(folder: Path, messages: list[dict[str, str]]) -> str:
    """The answer of a model to a conversation, by the libraries alone."""
    import torch  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - heavy

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    given = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**given, max_new_tokens=64, do_sample=False)
    return str(tokenizer.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True))
