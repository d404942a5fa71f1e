import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.config import ConfigError, Run, TrainConfig, digest_of

STORE = {"endpoint": "https://minio.storage:9000"}
RUN: dict[str, Any] = {
    "task": "TextClassification",
    "model": {"uri": "s3://models/minilm/"},
    "dataset": {
        "train": {"uri": "s3://data/train.jsonl"},
        "validation": {"split": 0.1},
        "test": {"uri": "s3://data/test.jsonl"},
    },
    "evaluation": {"metrics": ["accuracy", "macroF1"]},
    "output": "s3://models/tickets/",
    "runs": "s3://models/.finetune-runs/team/u-1/",
    "stores": {"data": STORE, "model": STORE, "output": STORE},
}
CONFIG: dict[str, Any] = {
    "contractVersion": "1.0",
    "stage": "Train",
    "attempt": 1,
    "job": {"namespace": "team", "name": "tickets", "uid": "u-1", "generation": 1},
    "run": RUN,
}


def written(folder: Path, document: object) -> Path:
    file = folder / "config.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def changed(path: str, value: object) -> dict[str, Any]:
    document = json.loads(json.dumps(CONFIG))
    *way, last = path.split(".")
    inner = document
    for part in way:
        inner = inner[part]
    inner[last] = value
    return document


def test_an_encoded_config_is_read_back(tmp_path: Path) -> None:
    config = TrainConfig.read(written(tmp_path, CONFIG))
    assert TrainConfig.read(written(tmp_path, config.model_dump_json(by_alias=True))) == config
    assert config.run.world.size == 1
    assert config.run.training.epochs == "Auto"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("run.dataset.validation.split", 1.0, "run.dataset.validation.split"),
        ("run.dataset.validation.split", 0, "run.dataset.validation.split"),
        ("run.training", {"epochs": 0}, "run.training.epochs"),
        ("run.training", {"learningRate": float("nan")}, "run.training.learningRate"),
        ("run.training", {"learnignRate": 0.1}, "run.training.learnignRate"),
        ("run.training", {"maxGradientNorm": float("inf")}, "run.training.maxGradientNorm"),
        ("run.evaluation.metrics", [], "run.evaluation.metrics"),
        ("run.evaluation.metrics", ["beauty"], "run.evaluation.metrics.0"),
        ("run.model.uri", "s3://" + "x" * 1024, "run.model.uri"),
        ("run.zeroStage", 4, "run.zeroStage"),
        ("stage", "Bake", "stage"),
        ("attempt", 0, "attempt"),
        ("contractVersion", "2.0", "contractVersion"),
    ],
)
def test_the_error_names_the_field(tmp_path: Path, path: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        TrainConfig.read(written(tmp_path, changed(path, value)))
    assert str(refusal.value).startswith(says)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"x"'])
def test_a_document_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        TrainConfig.read(written(tmp_path, text))


def test_the_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        TrainConfig.read(tmp_path / "nowhere.json")


def test_the_error_truncates_a_long_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        TrainConfig.read(written(tmp_path, changed("run.model.uri", "x" * 100_000)))
    assert len(str(refusal.value)) < 400


def test_an_attempt_with_fewer_pods_has_the_same_digest() -> None:
    whole = TrainConfig.model_validate(changed("run.world", {"nodes": 4, "processesPerNode": 2}))
    fewer = whole.model_copy(update={"nodes": 3})
    assert (whole.world.size, fewer.world.size) == (8, 6)
    assert fewer.run.digest() == whole.run.digest()


def test_the_digest_does_not_depend_on_the_form_of_the_json() -> None:
    one = Run.model_validate(RUN)
    other = Run.model_validate_json(json.dumps(dict(reversed(RUN.items())), indent=4))
    assert one.digest() == other.digest()


def test_the_digest_changes_with_any_value() -> None:
    plain = Run.model_validate(RUN)
    assert Run.model_validate({**RUN, "output": "s3://models/other/"}).digest() != plain.digest()
    assert digest_of(plain) == plain.digest()
