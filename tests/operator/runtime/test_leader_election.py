"""Leader election with the clock of the test. (tests/api tests real processes.)"""

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest

from finetune_operator.runtime import leader_election
from finetune_operator.runtime.api_client import (
    ApiError,
    ConflictError,
    ExistsError,
    LeaseLostError,
    MissingError,
    UnavailableError,
)
from finetune_operator.runtime.cluster import Cluster
from finetune_operator.runtime.leader_election import Leadership
from finetune_operator.settings import LEASE_MARGIN_SECONDS, Lease


class Shelf:
    """One Lease, with resource versions as the API server keeps them."""

    def __init__(self) -> None:
        self.there: Any = None
        self.fault: ApiError | None = None
        self.version = 0
        self.spent = 0.0
        self.clock: list[float] = [0.0]

    async def lease(self, *_: Any) -> Any:
        if self.fault:
            raise self.fault
        if self.there is None:
            raise MissingError("404")
        return copy.deepcopy(self.there)

    async def write_lease(self, body: Any, _: float) -> Any:
        self.clock[0] += self.spent
        if self.fault:
            raise self.fault
        told = body["metadata"].get("resourceVersion")
        if self.there is None and told:
            raise MissingError("404")
        if self.there is not None and told is None:
            raise ExistsError("409")
        if self.there is not None and told != self.there["metadata"]["resourceVersion"]:
            raise ConflictError("409")
        self.version += 1
        self.there = copy.deepcopy(body)
        self.there["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.there)


Candidate = Callable[[str], Leadership]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def candidate(shelf: Shelf) -> Candidate:
    async def sleep(seconds: float) -> None:
        shelf.clock[0] += seconds

    def make(name: str) -> Leadership:
        cluster = cast(Cluster, shelf)
        return Leadership(cluster, "ns", Lease(), name, lambda: shelf.clock[0], sleep)

    return make


async def test_the_first_candidate_leads_at_once(shelf: Shelf, candidate: Candidate) -> None:
    first = candidate("first")
    assert first.seconds_left() <= 0
    await first.acquire()
    assert shelf.clock[0] == 0
    assert first.seconds_left() == 15 - LEASE_MARGIN_SECONDS
    assert shelf.there["spec"]["holderIdentity"] == "first"
    assert shelf.there["spec"]["leaseTransitions"] == 0


async def test_a_failure_to_read_the_lease_is_logged_once_a_minute(
    shelf: Shelf, candidate: Candidate, caplog: pytest.LogCaptureFixture
) -> None:
    async def sleep(seconds: float) -> None:
        shelf.clock[0] += seconds
        faults = {100: UnavailableError("another"), 130: None}
        shelf.fault = faults.get(shelf.clock[0], shelf.fault)

    shelf.fault = UnavailableError("gone")
    waiting = candidate("first")
    waiting.sleep = sleep
    await waiting.acquire()
    assert shelf.clock[0] == 130
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"{what}; looking again every 2 s" for what in ("gone", "gone", "another")]


async def test_the_second_candidate_waits_the_whole_lease_duration(
    shelf: Shelf, candidate: Candidate
) -> None:
    await candidate("first").acquire()
    second = candidate("second")
    await second.acquire()
    assert 15 <= shelf.clock[0] < 15.1
    assert shelf.there["spec"]["holderIdentity"] == "second"
    assert shelf.there["spec"]["leaseTransitions"] == 1


async def test_the_old_leader_has_stopped_before_the_new_leader_begins(candidate: Candidate) -> None:
    first = candidate("first")
    await first.acquire()
    await candidate("second").acquire()
    assert first.seconds_left() <= -LEASE_MARGIN_SECONDS


async def test_a_wrong_wall_clock_changes_nothing(
    shelf: Shelf, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_election, "_now", lambda: "1999-01-01T00:00:00.000000Z")
    await candidate("first").acquire()
    await candidate("second").acquire()
    assert shelf.clock[0] >= 15


async def test_a_released_lease_is_acquired_at_once(shelf: Shelf, candidate: Candidate) -> None:
    first = candidate("first")
    await first.acquire()
    await first.release()
    assert first.seconds_left() <= 0
    before = shelf.clock[0]
    await candidate("second").acquire()
    assert shelf.clock[0] == before


async def test_the_lease_counts_from_before_the_renewal_was_sent(shelf: Shelf, candidate: Candidate) -> None:
    first = candidate("first")
    shelf.spent = 4.0
    await first.acquire()
    assert first.seconds_left() == 15 - 4 - LEASE_MARGIN_SECONDS


async def test_a_leader_that_cannot_renew_stops_in_time(shelf: Shelf, candidate: Candidate) -> None:
    first = candidate("first")
    await first.acquire()
    shelf.fault = UnavailableError("503")
    with pytest.raises(LeaseLostError):
        await first.keep()
    assert 12 <= shelf.clock[0] <= 15 - LEASE_MARGIN_SECONDS + 0.1


async def test_a_leader_that_was_replaced_stops(shelf: Shelf, candidate: Candidate) -> None:
    first = candidate("first")
    await first.acquire()
    shelf.there["spec"]["holderIdentity"] = "second"
    shelf.there["metadata"]["resourceVersion"] = "99"
    with pytest.raises(LeaseLostError, match="second leads now"):
        await first.keep()


async def test_a_leader_whose_lease_was_deleted_stops(shelf: Shelf, candidate: Candidate) -> None:
    first = candidate("first")
    await first.acquire()
    shelf.there = None
    with pytest.raises(LeaseLostError, match="deleted"):
        await first.keep()


async def test_a_label_that_others_put_on_the_lease_does_not_end_the_leadership(
    shelf: Shelf, candidate: Candidate
) -> None:
    first = candidate("first")
    await first.acquire()
    shelf.there["metadata"]["resourceVersion"] = "99"
    await first._renew(5)
    shelf.clock[0] += 3
    await first._renew(5)
    assert first.seconds_left() == 15 - LEASE_MARGIN_SECONDS


async def test_only_one_of_two_candidates_creates_the_lease(candidate: Candidate) -> None:
    first, second = candidate("first"), candidate("second")
    first._lease, second._lease = first._new(), second._new()
    assert [await first._write_as_holder(), await second._write_as_holder()] == [True, False]
    assert second.seconds_left() <= 0


async def test_a_candidate_survives_an_error_while_it_waits(shelf: Shelf, candidate: Candidate) -> None:
    first = candidate("first")
    shelf.fault = UnavailableError("503")
    looked = 0

    async def sleep(seconds: float) -> None:
        nonlocal looked
        looked += 1
        shelf.clock[0] += seconds
        if looked == 3:
            shelf.fault = None

    first.sleep = sleep
    await first.acquire()
    assert looked == 3
