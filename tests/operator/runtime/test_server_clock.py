"""The clock follows the Date headers of the answers."""

from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.runtime.server_clock import ServerClock

SERVER = 1_800_000_000.0


def clock_at(seconds: list[float], *, wrong_by: float = 0.0) -> ServerClock:
    return ServerClock(monotonic=lambda: seconds[0], wall=lambda: SERVER + wrong_by + seconds[0])


@pytest.mark.parametrize("wrong_by", [-3600, 0, 120, 3600])
def test_the_api_servers_time_counts_whatever_the_clock_of_this_machine(
    wrong_by: float, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = [0.0]
    clock = clock_at(seconds, wrong_by=wrong_by)
    clock.take_in(formatdate(SERVER, usegmt=True), 0.0)
    seconds[0] = 100.0

    assert clock.now() == datetime.fromtimestamp(SERVER + 100, UTC)
    assert ("see to NTP" in caplog.text) is (wrong_by != 0)


@pytest.mark.parametrize("date", [None, "", "yesterday", "2026-01-01T00:00:00Z"])
def test_an_invalid_date_changes_nothing(date: str | None) -> None:
    seconds = [0.0]
    clock = clock_at(seconds)
    clock.take_in(date, 0.0)
    assert clock.now().timestamp() == SERVER

    clock.take_in(formatdate(SERVER + 50, usegmt=True), 0.0)
    clock.take_in(date, 0.0)
    assert clock.now().timestamp() == SERVER + 50


def test_a_slow_answer_does_not_set_the_clock_back() -> None:
    seconds = [0.0]
    clock = clock_at(seconds)
    clock.take_in(formatdate(SERVER, usegmt=True), 0.0)
    seconds[0] = 20.0
    clock.take_in(formatdate(SERVER + 1, usegmt=True), 0.5)

    assert clock.now().timestamp() == SERVER + 20


def test_a_changed_clock_of_the_api_server_is_followed() -> None:
    seconds = [0.0]
    clock = clock_at(seconds)
    for moved in (3600.0, -3600.0):
        clock.take_in(formatdate(SERVER + moved, usegmt=True), 0.0)
        assert clock.now().timestamp() == pytest.approx(SERVER + moved, abs=1)


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30), st.floats(0, 100)), min_size=1))
def test_the_error_is_at_most_the_slowest_answer_and_a_second(
    answers: list[tuple[float, float, float]],
) -> None:
    """Each answer takes a while to go and a while to come; then some time passes."""
    seconds = [0.0]
    clock = clock_at(seconds, wrong_by=-86400)
    for there, back, pause in answers:
        asked_at = seconds[0]
        seconds[0] += there
        date = formatdate(int(SERVER + seconds[0]), usegmt=True)
        seconds[0] += back
        clock.take_in(date, asked_at)
        error = clock.now().timestamp() - (SERVER + seconds[0])
        assert -(back + 1) - 1e-3 <= error <= there + 1 + 1e-3
        seconds[0] += pause
