import numpy as np

from finetune_trainer.tasks.base import BaselineKey
from finetune_trainer.tasks.text_classification import model, probe
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.probe import linear_probe
from finetune_trainer.training import baseline

KEY = BaselineKey(
    task="TextClassification",
    model="sha256:" + "1" * 64,
    data="sha256:" + "2" * 64,
    max_length=48,
    primary_metric="macroF1",
    seed=42,
    code="1",
)


def rows(seed: int, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    features = np.eye(4)[labels] @ np.full((4, 12), 0.0) + random.normal(size=(count, 12)) * noise
    features[np.arange(count), labels] += 1
    return features.astype(np.float32), labels


def fitted(validation: tuple[np.ndarray, np.ndarray], test: np.ndarray) -> Probe:
    return linear_probe(
        rows(1, 120, 1.0), validation, test, majority=2, classes=4, key=KEY, on_progress=lambda: None
    )


def test_a_probe_learns_what_features_tell_and_answers_every_test_row() -> None:
    test, truth = rows(3, 80, 0.3)
    found = fitted(rows(2, 60, 0.3), test)
    assert np.mean(np.array(found.predictions) == truth) > 0.9
    assert (found.majority, found.rows, len(found.predictions)) == (2, 120, 80)


def test_the_strength_is_chosen_by_validation_rows_alone() -> None:
    validation, (test, _) = rows(2, 60, 1.0), rows(3, 80, 1.0)
    other_test = np.random.default_rng(9).normal(size=(80, 12)).astype(np.float32)
    first, second = fitted(validation, test), fitted(validation, other_test)
    assert (first.strength, first.validation) == (second.strength, second.validation)
    assert first.strength in probe.STRENGTHS


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
    test, _ = rows(3, 80, 0.3)
    found = fitted(rows(2, 60, 0.3), test)
    text = found.model_dump_json(by_alias=True).encode()
    assert baseline.read(model, text, KEY, 80) == found
    assert baseline.read(model, text, KEY, 81) is None
    assert baseline.read(model, text, KEY.model_copy(update={"seed": 1}), 80) is None
    assert baseline.read(model, text[:-20], KEY, 80) is None


def test_a_large_training_set_is_sampled_by_the_runs_seed() -> None:
    few = probe.probe_rows(100, 1)
    assert list(few) == list(range(100))
    many = probe.probe_rows(50_000, 1)
    assert len(set(many)) == probe.PROBE_ROWS
    assert np.array_equal(many, probe.probe_rows(50_000, 1))
    assert not np.array_equal(many, probe.probe_rows(50_000, 2))
