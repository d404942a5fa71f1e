import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.batches import (
    FILLER,
    Layout,
    MicroBatchSize,
    Rows,
    distribute_batch,
    epoch_batches,
    evaluation_steps,
    split_rows,
    steps_per_epoch,
)

sizes = st.builds(MicroBatchSize, st.integers(1, 80), st.sampled_from(["rows", "tokens"]))
layouts = st.builds(Layout, st.just(40), st.integers(1, 5), sizes)
rows_of_a_batch = st.lists(st.integers(1, 60), min_size=1, max_size=40)


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


def distributed(counts: list[int], layout: Layout) -> tuple[Rows, list[list[Rows]]]:
    """The lengths of the rows of a batch, and its micro-batches by rank."""
    lengths = np.array(sorted(counts, reverse=True), dtype=np.int64)
    return lengths, distribute_batch(np.arange(len(lengths)), lengths, layout)


@settings(deadline=None, max_examples=100)
@given(counts=rows_of_a_batch, layout=layouts)
def test_every_row_is_in_one_micro_batch_and_all_ranks_have_as_many(
    counts: list[int], layout: Layout
) -> None:
    _, ranks = distributed(counts, layout)
    assert len(ranks) == layout.world
    assert len({len(micro_batches) for micro_batches in ranks}) == 1
    rows = np.concatenate([rows for micro_batches in ranks for rows in micro_batches])
    assert sorted(rows[rows != FILLER]) == list(range(len(counts)))
    fillers = [rows for micro_batches in ranks for rows in micro_batches if FILLER in rows]
    assert all(rows.tolist() == [FILLER] for rows in fillers)


@settings(deadline=None, max_examples=100)
@given(counts=rows_of_a_batch, layout=layouts)
def test_a_micro_batch_keeps_its_size_and_another_row_would_not_fit(
    counts: list[int], layout: Layout
) -> None:
    lengths, ranks = distributed(counts, layout)

    def fits(rows: list[int]) -> bool:
        used = len(rows) if layout.size.unit == "rows" else len(rows) * lengths[rows[0]]
        return used <= layout.size.count or len(rows) == 1

    for micro_batches in ranks:
        given = [rows.tolist() for rows in micro_batches if FILLER not in rows]
        assert all(fits(rows) for rows in given)
        assert not any(fits([*rows, later[0]]) for rows, later in itertools.pairwise(given))
        assert [row for rows in given for row in rows] == sorted(row for rows in given for row in rows)


@settings(deadline=None, max_examples=100)
@given(counts=rows_of_a_batch, layout=layouts)
def test_ranks_have_similar_work(counts: list[int], layout: Layout) -> None:
    lengths, ranks = distributed(counts, layout)
    weights = lengths if layout.size.unit == "tokens" else np.ones_like(lengths)
    loads = [sum(int(weights[row]) for rows in each for row in rows if row != FILLER) for each in ranks]
    assert max(loads) - min(loads) <= weights.max()


def test_a_number_of_rows_gives_a_full_batch_the_accumulation_steps_of_the_division() -> None:
    lengths = np.arange(48, 0, -1)
    ranks = distribute_batch(np.arange(48), lengths, Layout(48, 3, MicroBatchSize(4, "rows")))
    assert [[len(rows) for rows in each] for each in ranks] == [[4, 4, 4, 4]] * 3


def test_a_budget_needs_few_micro_batches_for_short_rows() -> None:
    lengths = np.clip(np.random.default_rng(5).lognormal(5.6, 0.9, 2000), 8, 2048).astype(np.int64)
    batches = epoch_batches(lengths, 64, seed=0, epoch=0)
    layout = Layout(64, 4, MicroBatchSize(4096, "tokens"))
    passes = sum(len(distribute_batch(batch, lengths, layout)[0]) for batch in batches)
    rows_of_max_length = sum(64 // 4 // 2 for _ in batches)
    assert passes < rows_of_max_length / 2
    assert passes < 1.5 * np.sum([np.ceil(lengths[batch].sum() / 4 / 4096) for batch in batches])


def test_rows_are_split_in_order_and_long_rows_are_alone() -> None:
    lengths = np.array([9, 5, 4, 4, 1, 1, 1])
    split = split_rows(np.arange(7), lengths, MicroBatchSize(8, "tokens"))
    assert [rows.tolist() for rows in split] == [[0], [1], [2, 3], [4, 5, 6]]
    split = split_rows(np.arange(7), lengths, MicroBatchSize(3, "rows"))
    assert [rows.tolist() for rows in split] == [[0, 1, 2], [3, 4, 5], [6]]


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
    ranks = distribute_batch(np.arange(64), lengths, Layout(64, 4, MicroBatchSize(4, "rows")))
    longest = np.array([[lengths[rows].max() for rows in each] for each in ranks])
    assert (longest.max(axis=0) - longest.min(axis=0)).max() <= 30


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
