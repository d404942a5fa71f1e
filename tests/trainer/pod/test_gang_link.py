"""The reports of a supervisor to the supervisor with index 0 over HTTP."""

import socket
from typing import Any

import pytest

from finetune_trainer.contract import Progress, Stage
from finetune_trainer.pod import gang_link
from finetune_trainer.pod.endpoint import Endpoint
from finetune_trainer.pod.gang import Report
from finetune_trainer.pod.gang_link import Coordinator, Member
from tests.trainer.pod.test_supervisor import until

KEY = "a key"


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were resolved; `index-0` has the address 127.0.0.1."""
    found: list[str] = []
    resolve = socket.getaddrinfo

    def resolved(host: str, *more: Any, **named: Any) -> Any:
        found.append(host)
        return resolve("127.0.0.1" if host == "index-0" else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(gang_link, "REPORT_SECONDS", 0.01)
    return found


def test_the_name_of_index_0_is_resolved_again_only_after_an_error(
    lookups: list[str],
) -> None:
    coordinator = Coordinator(2, 3)
    served = Endpoint(0, lambda: Progress(stage=Stage.TRAIN, attempt=1), KEY, None, coordinator.serve)
    member = Member("index-0", served.port, KEY, 2, Report(index=1, round=0))
    until(lambda: len(lookups) >= 5)
    assert lookups.count("index-0") == 1
    served.close()
    until(lambda: lookups.count("index-0") >= 2)
    member.close()
