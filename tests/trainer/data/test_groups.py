from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.groups import Groups

VALUES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=40)


@given(VALUES, st.integers(0, 5))
def test_equal_values_are_found_in_the_order_of_their_first_place(
    pairs: list[tuple[int, int]], most: int
) -> None:
    values = np.array([value for value, _ in pairs], np.uint64)
    other = np.array([number for _, number in pairs], np.int32)
    expected: dict[int, list[int]] = defaultdict(list)
    for place, (value, _) in enumerate(pairs):
        expected[value].append(place)
    groups = Groups.of(values)
    assert len(groups) == len(expected)
    assert int(groups.sizes.sum()) == len(pairs)
    repeated = [places for places in expected.values() if len(places) > 1]
    assert groups.list_members(groups.sizes > 1, most) == repeated[:most]
    find_mixed = [places for places in expected.values() if len({pairs[place][1] for place in places}) > 1]
    assert groups.list_members(groups.find_mixed(other), 99) == find_mixed
