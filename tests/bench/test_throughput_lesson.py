from pathlib import Path

import numpy as np

from bench.train_throughput.lesson import STANDING_STILL, Lesson, Rows


def lesson(rows: Path, task: str = "TextGeneration") -> Lesson:
    return Lesson(
        task=task,
        way="padded",
        base="base",
        rows=str(rows),
        count=2,
        batch=8,
        micro_batch=4,
        epochs=3,
        learning_rate=1e-3,
    )


def stored(folder: Path) -> Path:
    """Three rows of 2, 3 and 1 tokens."""
    path = folder / "rows.npz"
    np.savez(
        path,
        tokens=np.array([1, 2, 3, 4, 5, 6], dtype=np.int32),
        offsets=np.array([0, 2, 5, 6]),
        labels=np.array([1, 0, 2], dtype=np.int32),
        loss_mask=np.array([False, True, False, True, True, False]),
    )
    return path


def test_a_lesson_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = lesson(tmp_path)
    assert Lesson.read(written.written()) == written


def test_everybody_gets_the_first_rows_with_what_is_learnt_of_them(tmp_path: Path) -> None:
    rows = Rows.of(lesson(stored(tmp_path)))
    assert rows.as_dicts("TextGeneration") == [
        {"input_ids": [1, 2], "labels": [-100, 2]},
        {"input_ids": [3, 4, 5], "labels": [-100, 4, 5]},
    ]
    assert [row["labels"] for row in rows.as_dicts("TextClassification")] == [1, 0]


def test_the_still_step_takes_all_its_rows_at_once_and_moves_nothing(tmp_path: Path) -> None:
    still = lesson(tmp_path).one_still_step(tmp_path / "still", 32)
    assert (still.count, still.batch, still.epochs, still.warmup_steps) == (32, 32, 1, 0)
    assert (still.micro_batch, still.accumulation) == (16, 2)
    assert still.learning_rate == STANDING_STILL
