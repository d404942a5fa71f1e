import numpy as np

from finetune_trainer.tasks.text_classification.record import (
    EXCERPT,
    format_prediction_lines,
    select_examples,
)


def test_predictions_survive_huge_logits() -> None:
    logits = np.array([[1e4, 0.0, -1e4]], dtype=np.float32)
    predictions = {name: np.array([0]) for name in ("majority", "baseline", "tuned")}
    (line,) = format_prediction_lines([("a.csv", 7)], np.array([1]), predictions, logits, ("a", "b", "c"))
    assert line.startswith('{"file": "a.csv", "line": 7, "label": "b"')
    assert '"probabilities": {"a": 1.0, "b": 0.0, "c": 0.0}' in line


def test_the_surest_rows_of_each_kind_are_kept_with_their_text() -> None:
    truth = np.zeros(40, dtype=np.int64)
    before = np.array([0, 1] * 20)
    after = np.array([0, 0, 1, 1] * 10)
    logits = np.zeros((40, 2), dtype=np.float32)
    logits[np.arange(40), after] = np.arange(40)
    predictions = {"majority": truth, "baseline": before, "tuned": after}
    found = select_examples(
        [("a.csv", line) for line in range(1, 41)],
        truth,
        predictions,
        logits,
        ("a", "b"),
        lambda row: f"row {row} " + "x" * 999,
    )
    assert [row.kind for row in found] == ["fixed"] * 6 + ["broken"] * 6 + ["wrong"] * 6
    assert [(row.file, row.line) for row in found[:3]] == [("a.csv", 38), ("a.csv", 34), ("a.csv", 30)]
    assert found[6].line == 39
    assert (found[6].label, found[6].probe, found[6].tuned) == ("a", "a", "b")
    assert found[0].text.startswith("row 37 x")
    assert len(found[0].text) == EXCERPT
    assert found[0].probability == 1.0
