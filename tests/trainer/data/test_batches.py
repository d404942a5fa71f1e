import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.batches import (
    FILLER,
    Layout,
    Rows,
    distribute_batch,
    epoch_batches,
    evaluation_steps,
    steps_per_epoch,
)

layouts = st.builds(Layout, st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 400), batch=st.integers(1, 40), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_row_comes_exactly_once_an_epoch_and_only_the_last_batch_is_short(
    rows: int, batch: int, seed: int, epoch: int
) -> None:
    lengths = np.random.default_rng(0).integers(1, 50, rows)
    batches = epoch_batches(lengths, batch, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert [len(one) for one in batches[:-1]] == [batch] * (len(batches) - 1)
    assert len(batches) == steps_per_epoch(rows, batch)


@settings(deadline=None, max_examples=60)
@given(layout=layouts, share=st.floats(0.01, 1))
def test_dealing_loses_no_row_and_gives_every_rank_the_same_number_of_places(
    layout: Layout, share: float
) -> None:
    batch = np.arange(max(1, int(layout.batch * share)))
    dealt = distribute_batch(batch, layout)
    assert dealt.shape == (layout.accumulation, layout.world, layout.micro_batch)
    assert sorted(dealt[dealt != FILLER]) == list(batch)


def test_epochs_differ_and_the_same_epoch_is_the_same_everywhere() -> None:
    lengths = np.arange(1, 101)
    first, again = (epoch_batches(lengths, 8, seed=1, epoch=0) for _ in range(2))
    other = epoch_batches(lengths, 8, seed=1, epoch=1)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_grouping_by_length_saves_most_of_the_padding() -> None:
    lengths = np.random.default_rng(2).integers(5, 129, 3000)

    def padded(batches: list[Rows]) -> int:
        return sum(len(batch) * lengths[batch].max() for batch in batches)

    grouped = padded(epoch_batches(lengths, 32, seed=0, epoch=0))
    at_random = padded(np.array_split(np.random.default_rng(0).permutation(3000), 94))
    assert grouped - lengths.sum() < 0.1 * (at_random - lengths.sum())


def test_ranks_get_rows_of_like_length_in_the_same_micro_batch() -> None:
    lengths = np.sort(np.random.default_rng(3).integers(1, 500, 64))[::-1].copy()
    dealt = distribute_batch(np.arange(64), Layout(micro_batch=4, accumulation=4, world=4))
    longest = lengths[dealt].max(axis=2)
    assert (longest.max(axis=1) - longest.min(axis=1)).max() <= 30


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "steps"),
    [
        (1, 1, {1}),
        (3, 40, {40, 80, 120}),
        (1, 199, {199}),
        (1, 200, {100, 200}),
        (2, 250, {125, 250, 375, 500}),
        (2, 30_000, {10_000, 20_000, 30_000, 40_000, 50_000, 60_000}),
        (4, 1_000, {500, 1_000, 1_500, 2_000, 2_500, 3_000, 3_500, 4_000}),
        (5, 1_000, {1_000, 2_000, 3_000, 4_000, 5_000}),
        (12, 10, {20, 50, 70, 100, 120}),
    ],
)
def test_a_run_of_few_long_epochs_is_also_evaluated_within_its_epochs(
    epochs: int, steps_per_epoch: int, steps: set[int]
) -> None:
    assert evaluation_steps(epochs, steps_per_epoch) == steps


@given(epochs=st.integers(1, 50), steps_per_epoch=st.integers(1, 5_000))
def test_the_last_step_is_evaluated_and_evaluations_are_few_and_apart(
    epochs: int, steps_per_epoch: int
) -> None:
    steps = sorted(evaluation_steps(epochs, steps_per_epoch))
    assert steps[-1] == epochs * steps_per_epoch
    assert 1 <= len(steps) <= 8
    between = [later - earlier for earlier, later in itertools.pairwise([0, *steps])]
    assert min(between) >= min(100, steps_per_epoch)
