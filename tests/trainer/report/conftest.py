"""Documents as training leaves them, small and large, and with hostile names."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

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
    TrainSplit,
)
from finetune_trainer.contract import Best, Chosen, Stage, TrainPayload
from finetune_trainer.report.page import Sources
from finetune_trainer.report.record import CurvePoint, EvaluationRow, TrainingRecord
from finetune_trainer.s3.manifest import Manifest
from finetune_trainer.tasks.text_classification import record as facts
from finetune_trainer.tasks.text_classification.metrics import compare, count_flips
from finetune_trainer.tasks.text_generation import metrics as generation_metrics
from finetune_trainer.tasks.text_generation.record import Continuation, GenerationFacts

DIGEST = "sha256:" + "5e" * 32
CHOSEN = Chosen(
    epochs=3,
    batch_size=32,
    micro_batch_size=8,
    accumulation_steps=2,
    world_size=2,
    learning_rate=3e-4,
    max_length=64,
    zero_stage=2,
    total_steps=900,
)


@pytest.fixture(scope="session")
def record_of() -> Callable[..., TrainingRecord]:
    """Makes the record of a classifier that has `right` of 100 test rows right, the probe `before` of 100."""

    def make(
        labels: Sequence[str], *, rows: int = 400, before: int = 60, right: int = 80, text: str = "a text"
    ) -> TrainingRecord:
        random = np.random.default_rng(3)
        classes = len(labels)
        truth = np.minimum(random.geometric(3 / classes if classes > 3 else 0.5, rows) - 1, classes - 1)
        wrong = (truth + random.integers(1, classes, rows)) % classes
        draw = random.integers(0, 100, rows)
        answers = {
            "majority": np.zeros(rows, dtype=np.int64),
            "baseline": np.where(random.integers(0, 100, rows) < before, truth, wrong),
            "tuned": np.where(draw < right, truth, wrong),
        }
        logits = random.normal(size=(rows, classes)).astype(np.float32)
        logits[np.arange(rows), answers["tuned"]] += 6
        metrics = ("accuracy", "macroF1", "microF1", "weightedF1", "mcc")
        return TrainingRecord(
            evaluation=compare(truth, answers, classes=classes, metrics=metrics, primary="macroF1", seed=1),
            task=facts.ClassificationFacts(
                labels=tuple(labels),
                confusion=facts.build_confusions(truth, answers, classes),
                classes=facts.build_class_rows(truth, answers, labels),
                **count_flips(truth, answers["baseline"], answers["tuned"]),
                probe=facts.ProbeFacts(strength=1.0, validation=0.5, rows=900, reused=False),
                examples=facts.select_examples(
                    [(f"{text}.jsonl", line) for line in range(1, rows + 1)],
                    truth,
                    answers,
                    logits,
                    labels,
                    lambda place: f"{place} {text}",
                ),
            ).model_dump(mode="json", by_alias=True),
            best=Best(step=600, metric=0.8),
            history=tuple(
                EvaluationRow(epoch=epoch, step=300 * epoch, training_loss=2 / epoch, validation=value)
                for epoch, value in ((1, 0.7), (2, 0.8), (3, 0.79))
            ),
            curve=tuple(
                CurvePoint(
                    step=step,
                    loss=3 * np.exp(-step / 300) + random.normal() * 0.05 + 0.3,
                    gradient_norm=float(random.gamma(3)),
                    learning_rate=3e-4 * min(step / 90, (900 - step) / 810),
                    rows_per_second=float(random.normal(210, 8)),
                )
                for step in range(5, 901, 5)
            ),
            rows={"train": 9600, "validation": 1000, "test": rows},
            parameters=22_713_728,
            precision="bfloat16",
            devices="8 x NVIDIA H100",
            training_seconds=1234.5,
            rows_per_second=209.4,
            tokens_per_second=9_000.0,
            versions={"torch": "2.13.0", "transformers": "5.23.0"},
        )

    return make


@pytest.fixture(scope="session")
def generator(record_of: Callable[..., TrainingRecord]) -> TrainingRecord:
    """The record of a generator whose loss fell; one of its texts is hostile, one is empty."""
    tokens = np.full(40, 9.0)
    base = np.stack([tokens * np.linspace(2.9, 3.1, 40), tokens, tokens // 3], axis=1)
    tuned = base * [0.5, 1, 2]
    continuations = (
        Continuation(
            file="test.jsonl",
            line=7,
            prompt="<b>Summary</b> of: " + "x" * 900,
            expected="a tool",
            base="x x x",
            tuned="a tool",
        ),
        Continuation(
            file="<i>.csv",
            line=1008,
            prompt="Q:",
            expected="an answer",
            base="",
            tuned="<script>alert(1)</script>",
        ),
    )
    changes = {
        "evaluation": generation_metrics.compare(
            {"baseline": base, "tuned": tuned},
            metrics=("loss", "perplexity", "tokenAccuracy"),
            primary="loss",
            seed=1,
        ),
        "task": GenerationFacts(
            test_tokens=360, packed=True, new_tokens=64, continuations=continuations, reused=False
        ).model_dump(mode="json", by_alias=True),
    }
    return record_of(["a", "b"]).model_copy(update=changes)


@pytest.fixture(scope="session")
def sources_of() -> Callable[..., Sources]:
    """Puts a record into the run that it may come from."""

    def make(record: TrainingRecord, data: object = None, name: str = "tickets-v1") -> Sources:
        job = JobRef(namespace="support", name=name, uid="3f2b8a6c-51d7-4c0e", generation=1)
        store = StoreAccess(endpoint="https://minio.storage:9000")
        run = Run(
            task="TextGeneration" if "continuations" in record.task else "TextClassification",
            model=ModelSource(uri="s3://models/minilm"),
            dataset=Dataset(
                train=TrainSplit(uri="s3://data/train.jsonl"),
                validation=HeldOut(split=0.1),
                test=HeldOut(uri="s3://data/test.jsonl"),
            ),
            evaluation=EvaluationSpec(metrics=("accuracy", "macroF1")),
            output="s3://models/support/tickets-v1/v1/",
            runs="s3://models/.finetune-runs/support/3f2b8a6c/",
            stores=Stores(data=store, model=store, output=store),
        )
        config = TrainConfig(stage=Stage.PUBLISH, attempt=1, job=job, run=run, chosen=CHOSEN, prepared=DIGEST)
        staged = Manifest(
            job=job,
            created="2026-03-01T12:00:00+00:00",
            base_model=DIGEST,
            data=DIGEST,
            config=DIGEST,
            files=(),
        )
        trained = TrainPayload(
            best=record.best,
            evaluation=record.evaluation,
            staging=f"{run.runs}staging/1-abc/",
            peak_memory_bytes=12_300_000_000,
            gpu_seconds=9876,
        )
        return Sources(config, CHOSEN, staged, record, trained, data)

    return make


@pytest.fixture(scope="session")
def doctor() -> dict[str, object]:
    """A data report with something of everything."""
    edges = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
    counts = (12, 900, 3400, 4100, 1100, 80, 8, 0, 0, 0)
    lengths = {
        "histogram": {f"{edge}+": rows for edge, rows in zip(edges, counts, strict=True)},
        "percentiles": {"50": 31, "90": 60, "95": 71, "99": 120, "100": 391},
        "tokens": 350_123,
        "rowsCut": 1188,
        "tokensCut": 21_250,
    }
    return {
        "findings": [
            {
                "level": "warning",
                "code": "BadRows",
                "message": "2 of 9,602 rows of s3://data/train.jsonl cannot be used.",
                "file": "s3://data/train.jsonl",
                "count": 2,
                "lines": ["101: 'text' is empty", "301: no JSON"],
            },
            {
                "level": "warning",
                "code": "Overlap",
                "message": "20 train rows were left out because their text is also among the test rows.",
                "file": "s3://data/train.jsonl",
                "count": 20,
                "lines": [f"{line}: the printer on floor {line} is out of paper" for line in range(7, 27)],
            },
        ],
        "files": {
            "train": [{"uri": "s3://data/train.jsonl", "digest": DIGEST, "size": 1_234_567}],
            "test": [{"uri": "s3://data/test.jsonl", "digest": DIGEST, "size": 123_456}],
        },
        "rows": {"train": 9600, "validation": 1000, "test": 400},
        "labels": {name: {"train": rows, "validation": 10, "test": 4} for name, rows in (("a", 9), ("b", 4))},
        "maxLength": 64,
        "lengths": dict.fromkeys(("train", "validation", "test"), lengths),
    }
