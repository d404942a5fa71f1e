import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.batches import (
    FILLER,
    Layout,
    MicroBatchSize,
    Rows,
    position,
    samples_seen,
    steps_per_epoch,
)
from finetune_trainer.data.shards import Split
from finetune_trainer.models.collate import IGNORE_INDEX, Tensors
from finetune_trainer.tasks.base import Numbers
from finetune_trainer.training.loader import RankBatches, ahead

BATCH = 8


def rows_of(count: int) -> Split:
    lengths = np.random.default_rng(0).integers(1, 9, count)
    return Split(
        tokens=np.zeros(lengths.sum(), np.int32),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        labels=np.zeros(count, np.int32),
        rows=np.arange(count, dtype=np.int64),
        loss_mask=np.zeros(lengths.sum(), np.bool_),
    )


def collate(_split: Split, numbers: Numbers) -> Tensors:
    """Each row has its number as label, except FILLER, whose number is IGNORE_INDEX."""
    labels = torch.tensor([IGNORE_INDEX if number == FILLER else number for number in numbers])
    return {"labels": labels, "row_index": torch.arange(len(labels))}


ROWS, TOKENS = MicroBatchSize(2, "rows"), MicroBatchSize(12, "tokens")


def loader(world: int, rank: int, seen: int, count: int, size: MicroBatchSize = ROWS) -> RankBatches:
    layout = Layout(BATCH, world, size)
    batches = RankBatches(rows_of(count), layout, rank=rank, seed=3, collate=collate)
    batches.resume_after(seen)
    return batches


def global_batches(
    world: int, seen: int, count: int, epochs: int, size: MicroBatchSize = ROWS
) -> list[list[int]]:
    """The rows of each optimizer step after `seen` samples, by all ranks together."""
    ranks = [loader(world, rank, seen, count, size) for rank in range(world)]
    found = []
    for epoch in range(ranks[0].epoch, epochs):
        for one in ranks:
            one.set_epoch(epoch)
        before = len(found)
        for steps in zip(*ranks, strict=True):
            assert len({len(step.micro_batches) for step in steps}) == 1
            rows = np.concatenate([each.label_rows for step in steps for each in step.micro_batches])
            labels = torch.cat([each.inputs["labels"] for step in steps for each in step.micro_batches])
            assert np.array_equal(np.where(rows == FILLER, IGNORE_INDEX, rows), labels.numpy())
            found.append(sorted(int(row) for row in rows if row != FILLER))
            assert sum(step.targets for step in steps) == len(found[-1])
            tokens = int(ranks[0].split.lengths[found[-1]].sum())
            assert {(step.rows, step.tokens) for step in steps} == {(len(found[-1]), tokens)}
        assert len(ranks[0]) == ranks[0].completed(epoch) + len(found) - before
    return found


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 50),
    steps=st.integers(0, 14),
    world=st.sampled_from([1, 2, 3, 4]),
    size=st.sampled_from([ROWS, TOKENS]),
)
def test_a_run_that_continues_sees_what_a_run_that_never_stopped_sees_with_any_number_of_ranks(
    count: int, steps: int, world: int, size: MicroBatchSize
) -> None:
    whole = global_batches(1, 0, count, epochs=2)
    steps = min(steps, len(whole))
    seen = samples_seen(steps, count, BATCH)
    assert global_batches(world, seen, count, epochs=2, size=size) == whole[steps:]
    assert sum(map(len, whole[:steps])) == seen


@given(steps=st.integers(0, 10**6), rows=st.integers(1, 10**4), batch=st.integers(1, 100))
def test_the_position_of_the_samples_seen_is_that_of_the_steps(steps: int, rows: int, batch: int) -> None:
    found = position(samples_seen(steps, rows, batch), rows, batch)
    assert divmod(steps, steps_per_epoch(rows, batch)) == (found.epoch, found.batch)


def test_samples_that_end_inside_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="13 samples end inside a batch of 8 rows"):
        loader(1, 0, 13, 40)


def test_a_thread_is_ahead_of_the_model_by_so_many_steps_and_not_more() -> None:
    made: list[int] = []
    reached = threading.Event()

    def make(numbers: Rows) -> int:
        made.append(int(numbers[0]))
        if len(made) == 4:
            reached.set()
        return made[-1]

    found = ahead(make, (np.array([number]) for number in range(10)), 3, lambda: None)
    assert next(found) == 0
    assert reached.wait(10)
    found.close()  # type: ignore[attr-defined]
    assert made == [0, 1, 2, 3]
    assert not any(thread.name.startswith("collate") for thread in threading.enumerate())


def test_what_collating_raises_is_raised_where_the_batch_is_asked_for() -> None:
    def make(numbers: Rows) -> int:
        if numbers[0] == 1:
            raise RuntimeError("no such row")
        return int(numbers[0])

    def numbers() -> Iterator[Rows]:
        yield from (np.array([number]) for number in range(3))

    found = ahead(make, numbers(), 2, lambda: None)
    assert next(found) == 0
    with pytest.raises(RuntimeError, match="no such row"):
        next(found)
