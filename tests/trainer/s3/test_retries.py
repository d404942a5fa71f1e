from collections.abc import Callable
from dataclasses import dataclass

import pytest

from finetune_trainer.config import StoreAccess
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import retries
from finetune_trainer.s3.credentials import Credentials
from finetune_trainer.s3.retries import persist
from finetune_trainer.s3.store import open_store
from tests.trainer.s3.servers import answering, failure_of


@dataclass
class Reached:
    """A store whose credentials may change."""

    endpoint: str
    keys: list[Credentials]
    """The credentials of each reading in turn; the last entry stays."""

    def credentials(self) -> Credentials:
        return self.keys.pop(0) if len(self.keys) > 1 else self.keys[0]


OLD, NEW = Credentials("old", "key"), Credentials("new", "key", "token")
STORE = Reached("https://store", [OLD])


class Clock:
    """A clock that only the pauses advance."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retries, "sleep", clock.sleep)
    monkeypatch.setattr(retries, "monotonic", clock.monotonic)
    return clock


def failing(reason: str, times: int) -> tuple[list[str], Callable[[], str]]:
    tried: list[str] = []

    def action() -> str:
        tried.append(reason)
        if len(tried) <= times:
            raise StageFailure(FailureClass.STORAGE, reason, "message")
        return "done"

    return tried, action


def test_pauses_grow_and_are_random(clock: Clock) -> None:
    _, action = failing("StorageThrottled", 4)
    assert persist(action, "act", STORE) == "done"
    assert all(0.5 <= pause / (0.25 * 2**n) <= 1 for n, pause in enumerate(clock.pauses, start=1))
    assert len(set(clock.pauses)) == 4


@pytest.mark.parametrize(
    ("reason", "tries"),
    [
        *(("StorageError", 5), ("ObjectCorrupt", 5), ("SessionTokenExpired", 5)),
        *(("StorageDenied", 1), ("BucketMissing", 1)),
    ],
)
def test_only_retryable_reasons_are_tried_again(clock: Clock, reason: str, tries: int) -> None:
    tried, action = failing(reason, 9)
    with pytest.raises(StageFailure, match=reason):
        persist(action, "act", STORE)
    assert len(tried) == tries
    assert len(clock.pauses) == tries - 1


@pytest.mark.parametrize("reason", ["StorageDenied", "SessionTokenExpired"])
def test_a_refused_request_is_tried_again_with_new_credentials(clock: Clock, reason: str) -> None:
    tried, action = failing(reason, 1)
    assert persist(action, "act", Reached("https://store", [OLD, NEW])) == "done"
    assert (len(tried), len(clock.pauses)) == (2, 1)


def test_time_outs_are_tried_again_within_the_time_limit(clock: Clock) -> None:
    tried: list[float] = []

    def hang() -> None:
        tried.append(clock.now)
        clock.now += 30
        raise TimeoutError("timed out")

    with pytest.raises(StageFailure, match="did not answer in time"):
        persist(hang, "act", STORE)
    assert 2 <= len(tried) < 5
    assert clock.now - tried[0] < 180


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("status", "reason", "requests"),
    [
        (500, "StorageError", 5),
        (503, "StorageError", 5),
        (429, "StorageThrottled", 5),
        (400, "StorageRefused", 1),
    ],
)
def test_retryable_statuses_are_tried_five_times_and_others_once(
    paths: Paths, status: int, reason: str, requests: int
) -> None:
    with answering(status) as (endpoint, seen):
        reader = open_store(StoreAccess(endpoint=endpoint), "data", paths)
        with pytest.raises(StageFailure, match=reason):
            reader.read_range("s3://bucket/key", 0, 1)
    assert len(seen) == requests


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("endpoint", "says"), [("http://127.0.0.1:9", "refused"), ("http://no.such.host.invalid", "resolved")]
)
def test_a_store_that_does_not_exist_is_unreachable(paths: Paths, endpoint: str, says: str) -> None:
    failure = failure_of(StoreAccess(endpoint=endpoint), paths)
    assert failure.reason == "StorageUnreachable"
    assert says in failure.message
