from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data import splitting
from finetune_trainer.data.rows import hash_text
from finetune_trainer.tasks.text_classification.data import LabelledText as Example

_ROWS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abcd")), min_size=1, max_size=200)


def held_out(every: list[Example], share: float, seed: int) -> list[int]:
    """The numbers of the rows that are held out."""
    names = sorted({row.label for row in every})
    keys = np.array([hash_text(row.key) for row in every], np.uint64)
    strata = np.array([names.index(row.label) for row in every], np.int32)
    return np.flatnonzero(splitting.draw_held_out(keys, strata, names, share, seed)).tolist()


def examples(rows: list[tuple[int, str]]) -> list[Example]:
    return [Example(line, f"text {text}", label) for line, (text, label) in enumerate(rows, start=1)]


@given(_ROWS, st.floats(0.01, 0.99), st.integers(0, 9))
def test_no_text_is_on_both_sides(rows: list[tuple[int, str]], share: float, seed: int) -> None:
    every = examples(rows)
    drawn = held_out(every, share, seed)
    inside = {every[number].key for number in drawn}
    outside = {row.key for number, row in enumerate(every) if number not in drawn}
    assert not inside & outside
    assert outside


@given(_ROWS, st.floats(0.01, 0.99), st.integers(0, 9))
def test_the_same_seed_draws_the_same_rows(rows: list[tuple[int, str]], share: float, seed: int) -> None:
    assert held_out(examples(rows), share, seed) == held_out(examples(rows), share, seed)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(2, 80), min_size=1),
    st.floats(0.05, 0.6),
    st.integers(0, 9),
)
def test_each_class_gives_its_share(sizes: dict[str, int], share: float, seed: int) -> None:
    every = examples([(0, label) for label, size in sizes.items() for _ in range(size)])
    every = [Example(row.line, f"{row.line}", row.label) for row in every]
    drawn = held_out(every, share, seed)
    got = Counter(every[number].label for number in drawn)
    for label, size in sizes.items():
        assert abs(got[label] - share * size) <= 1


def test_another_seed_draws_other_rows() -> None:
    every = examples([(number, "a") for number in range(100)])
    assert held_out(every, 0.2, 1) != held_out(every, 0.2, 2)


def test_a_row_more_moves_few_others() -> None:
    every = examples([(number, "a") for number in range(100)])
    before = {every[number].key for number in held_out(every, 0.2, 1)}
    more = [*every, Example(101, "one more", "a")]
    after = {more[number].key for number in held_out(more, 0.2, 1)}
    assert len(before - after) <= 1


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(0, 60))
def test_sizes_are_taken_in_their_order_as_long_as_they_fit(sizes: list[int], room: int) -> None:
    expected, left = [], room
    for place, size in enumerate(sizes):
        if size <= left:
            expected.append(place)
            left -= size
    assert splitting._select_fitting(np.array(sizes, np.int64), room).tolist() == expected
