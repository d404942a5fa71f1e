"""Edge cases of the policies that the golden cases do not show."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.fields import seconds_of
from finetune_operator.objects import distance, since
from tests.operator import scenes


@pytest.mark.parametrize(("duration", "seconds"), [("90s", 90), ("10m", 600), ("720h", 2592000), ("0s", 0)])
def test_durations(duration: str, seconds: int) -> None:
    assert seconds_of(duration) == seconds


@given(st.integers(-(10**8), 10**8))
def test_a_clock_that_was_set_back_neither_stalls_a_job_nor_ends_it_early(seconds: int) -> None:
    then = scenes.NOW + timedelta(seconds=seconds)

    assert distance(then, scenes.NOW) == abs(seconds)
    assert since(then, scenes.NOW) == max(0, -seconds)
