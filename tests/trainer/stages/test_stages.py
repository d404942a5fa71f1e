"""Prepare, Train and Publish as pods run them: supervisor, real encoder, real rows, real S3 server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import pipeline

from finetune_trainer.config import (
    Dataset,
    EvaluationSpec,
    HeldOut,
    JobRef,
    ModelSource,
    Rendezvous,
    Run,
    StoreAccess,
    Stores,
    TrainConfig,
    Training,
    TrainSplit,
    World,
)
from finetune_trainer.contract import (
    PreparePayload,
    PublishPayload,
    Stage,
    TerminationMessage,
    TrainPayload,
)
from finetune_trainer.models import base_model
from finetune_trainer.s3.store import Store

ROWS = Path(__file__).parents[3] / "examples" / "data" / "debian-sections"


@pytest.fixture
def sections(store: Store, bucket: str, minilm: Path, access: StoreAccess) -> TrainConfig:
    """Four of the sections, 48 training rows of each, two processes, ZeRO-2, one epoch."""
    home = f"s3://{bucket}/"
    for name in ("config.json", "model.safetensors", *base_model.TOKENIZER_FILES):
        if (minilm / name).is_file():
            store.upload(minilm / name, f"{home}base/{name}")
    kept: dict[str, int] = {}
    for name, most in (("train", 48), ("test", 16)):
        lines = []
        seen: dict[str, int] = {}
        for line in (ROWS / f"{name}.jsonl").read_text().splitlines():
            label = json.loads(line)["label"]
            if label not in kept and (name == "test" or len(kept) == 4):
                continue
            kept.setdefault(label, len(kept))
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= most:
                lines.append(line)
        store.write(f"{home}{name}.jsonl", "\n".join(lines).encode())
    return TrainConfig(
        stage=Stage.PREPARE,
        attempt=1,
        job=JobRef(namespace="team", name="sections", uid="0123456789abcdef", generation=1),
        run=Run(
            task="TextClassification",
            model=ModelSource(uri=f"{home}base"),
            dataset=Dataset(
                train=TrainSplit(uri=f"{home}train.jsonl"),
                validation=HeldOut(split=0.2),
                test=HeldOut(uri=f"{home}test.jsonl"),
            ),
            training=Training(epochs=2, batch_size=16, max_length=48, learning_rate=1e-4),
            zero_stage=2,
            world=World(processes_per_node=2),
            evaluation=EvaluationSpec(metrics=("accuracy", "macroF1", "mcc")),
            output=f"{home}models/sections/",
            runs=f"{home}runs/",
            stores=Stores(data=access, model=access, output=access),
        ),
        rendezvous=Rendezvous(master_port=29733, startup_deadline_seconds=240),
    )


def test_a_real_encoder_is_prepared_trained_and_published(
    sections: TrainConfig, pod: Callable[[TrainConfig], TerminationMessage], store: Store, tmp_path: Path
) -> None:
    prepared = pod(sections).payload
    assert isinstance(prepared, PreparePayload)
    assert prepared.labels == 4
    given = {"chosen": prepared.chosen, "prepared": prepared.data_digest}
    trained = pod(sections.model_copy(update={"stage": Stage.TRAIN, **given})).payload
    assert isinstance(trained, TrainPayload)
    evaluation = trained.evaluation
    assert evaluation.rows == prepared.rows.test
    assert evaluation.tuned
    assert evaluation.baseline.primary > evaluation.majority.primary
    assert evaluation.tuned.primary > evaluation.majority.primary
    published = pod(sections.model_copy(update={"stage": Stage.PUBLISH, **given})).payload
    assert isinstance(published, PublishPayload)

    # A stranger with nothing but the folder can use it, and gets the answers that were reported.
    for entry in store.list(published.uri):
        store.download(entry.uri, tmp_path / "model" / entry.uri.removeprefix(published.uri))
    classify = pipeline("text-classification", model=str(tmp_path / "model"), device="cpu")
    lines = (tmp_path / "model/evaluation/predictions.jsonl").read_text().splitlines()
    reported = {line["line"]: line["tuned"] for line in map(json.loads, lines)}
    test = store.read(sections.run.dataset.test.uri or "").decode().splitlines()
    texts = {row: json.loads(test[row - 1])["text"] for row in sorted(reported)[:8]}
    answers = classify(list(texts.values()), truncation=True, max_length=48)
    assert [answer["label"] for answer in answers] == [reported[row] for row in texts]
