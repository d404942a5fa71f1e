from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from finetune_trainer.models.logistic_regression import SINGLE_PROCESS
from finetune_trainer.tasks.base import BaselineKey
from finetune_trainer.tasks.text_classification import model, probe
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.metrics import measure
from finetune_trainer.tasks.text_classification.probe import LinearProbe, fit_linear_probe
from finetune_trainer.training import baseline

KEY = BaselineKey(
    task="TextClassification",
    model="sha256:" + "1" * 64,
    data="sha256:" + "2" * 64,
    max_length=48,
    primary_metric="macroF1",
    precision="float32",
    seed=42,
    code="1",
)


def rows(seed: int, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    features = np.eye(4)[labels] @ np.full((4, 12), 0.0) + random.normal(size=(count, 12)) * noise
    features[np.arange(count), labels] += 1
    return features.astype(np.float32), labels


def fitted(validation: tuple[np.ndarray, np.ndarray], **values: Any) -> LinearProbe:
    usual = {"classes": 4, "metric": "macroF1", "peers": SINGLE_PROCESS}
    return fit_linear_probe(rows(1, 120, 1.0), validation, **{**usual, **values})


def test_a_probe_learns_what_features_tell() -> None:
    (test, truth), found = rows(3, 80, 0.3), fitted(rows(2, 60, 0.3))
    answers = found.classifier.predict(torch.from_numpy(test)).numpy()
    assert np.mean(answers == truth) > 0.9
    assert found.rows == 120


def test_the_metric_on_the_validation_rows_chooses_the_strength() -> None:
    validation = rows(2, 60, 1.0)
    found = fitted(validation)
    answers = found.classifier.predict(torch.from_numpy(validation[0])).numpy()
    assert found.validation == measure(validation[1], answers, 4)["macroF1"]
    alone = []
    for strength in probe.STRENGTHS:
        scaler = StandardScaler().fit(rows(1, 120, 1.0)[0])
        model = LogisticRegression(C=strength, max_iter=5000, tol=1e-7)
        model.fit(scaler.transform(rows(1, 120, 1.0)[0]), rows(1, 120, 1.0)[1])
        given = model.predict(scaler.transform(validation[0]))
        alone.append(f1_score(validation[1], given, average="macro"))
    assert found.validation == pytest.approx(max(alone), abs=0.03)
    assert found.strength == probe.STRENGTHS[int(np.argmax(alone))]


def test_progress_never_falls_and_ends_at_one() -> None:
    told: list[float] = []
    fitted(rows(2, 60, 0.3), on_progress=told.append)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert len(told) > 2 * len(probe.STRENGTHS), "also during a fit"


def test_anything_that_a_baseline_depends_on_changes_its_name() -> None:
    changed = [
        KEY.model_copy(update={"model": KEY.data}),
        KEY.model_copy(update={"data": KEY.model}),
        KEY.model_copy(update={"max_length": 64}),
        KEY.model_copy(update={"primary_metric": "mcc"}),
        KEY.model_copy(update={"seed": 1}),
        KEY.model_copy(update={"code": "0"}),
    ]
    names = {baseline.uri("s3://b/runs/", key) for key in (KEY, *changed)}
    assert len(names) == 1 + len(changed)


def test_a_stored_baseline_is_read_back_only_if_it_is_exactly_the_one_needed() -> None:
    found = Probe(
        key=KEY, test_rows=80, majority=2, strength=1.0, validation=0.5, rows=120, predictions=(1,) * 80
    )
    text = found.model_dump_json(by_alias=True).encode()
    assert baseline.read(model, text, KEY, 80) == found
    assert baseline.read(model, text, KEY, 81) is None
    assert baseline.read(model, text, KEY.model_copy(update={"seed": 1}), 80) is None
    assert baseline.read(model, text[:-20], KEY, 80) is None


def test_a_large_training_set_is_sampled_by_the_runs_seed() -> None:
    few = probe.draw_probe_rows(np.arange(100) % 4, 1)
    assert list(few) == list(range(100))
    labels = np.arange(50_000) % 4
    many = probe.draw_probe_rows(labels, 1)
    assert len(set(many)) == probe.PROBE_ROWS
    assert np.array_equal(many, probe.draw_probe_rows(labels, 1))
    assert not np.array_equal(many, probe.draw_probe_rows(labels, 2))


def test_each_class_keeps_a_row_in_the_sample() -> None:
    labels = np.zeros(50_000, dtype=np.int64)
    labels[[7, 30_000, 49_999]] = [1, 2, 3]
    for seed in range(5):
        assert set(labels[probe.draw_probe_rows(labels, seed)]) == {0, 1, 2, 3}
