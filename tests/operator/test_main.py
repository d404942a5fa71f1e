"""What the operator's process decides by itself: whether it is well, when it begins, when it looks again."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from devcluster.controlplane import free_ports
from finetune_operator import __main__ as entry
from finetune_operator.__main__ import LEASE_LOST, UNWELL_LEASE_SECONDS, Pulse
from finetune_operator.names import KIND
from finetune_operator.runtime.api_client import LeaseLostError, UnavailableError
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.leader_election import Leadership
from finetune_operator.runtime.workqueue import WorkQueue
from tests.firstprocess import exit_code_when_told_to_leave
from tests.operator import scenes
from tests.operator.apiserver import ApiServer
from tests.operator.kubeconfig import write_kubeconfig

NOW = 100_000.0
LONG_AGO = NOW - 4 * 300 - 1
"""Four resyncs of 300 s were missed."""


class Election:
    """A lease that was looked at just now."""

    looked_at = NOW

    async def keep(self) -> None:
        raise LeaseLostError("another leads now")


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> Pulse:
    monkeypatch.setattr("finetune_operator.__main__.time.monotonic", lambda: NOW)
    return Pulse(scenes.settings(), cast("Leadership", Election()))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, None),  # a standby that waits for the lease
        ({"leads_since": NOW - 1200}, None),  # its first resync takes long
        ({"leads_since": LONG_AGO}, "the last resync was completed 1201 s ago"),
        ({"leads_since": 1.0, "resynced_at": NOW - 1200}, None),
        ({"leads_since": 1.0, "resynced_at": LONG_AGO}, "the last resync was completed 1201 s ago"),
        ({"leads_since": 1.0, "resynced_at": LONG_AGO, "stopping": True}, None),
    ],
)
def test_a_leader_that_lists_nothing_any_more_is_unwell(
    pulse: Pulse, facts: dict[str, Any], says: str | None
) -> None:
    for name, value in facts.items():
        setattr(pulse, name, value)

    assert pulse.ailment() == says


def test_a_replica_that_does_not_look_at_the_lease_is_unwell(pulse: Pulse) -> None:
    pulse.leadership.looked_at = NOW - UNWELL_LEASE_SECONDS
    assert pulse.ailment() is None
    pulse.leadership.looked_at -= 1
    assert pulse.ailment() == "the lease was last looked at 61 s ago"


@pytest.fixture
def server() -> ApiServer:
    server = ApiServer()
    server.put({"kind": KIND, "metadata": {"name": "tickets", "namespace": "demo", "uid": "run"}})
    return server


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept; it takes no time, and after ten naps the sleeper is ended."""
    slept: list[float] = []
    real: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)
        if len(slept) == 10:
            raise asyncio.CancelledError

    monkeypatch.setattr("finetune_operator.__main__.asyncio.sleep", sleep)
    return slept


def refusing(server: ApiServer, times: int) -> None:
    """The first so many lists of FineTuneJobs fail."""
    left = [times]

    def decide(what: str) -> None:
        if what == f"list {KIND}" and left[0]:
            left[0] -= 1
            raise UnavailableError(f"{what}: etcd is away")

    server.before = decide


async def test_nothing_begins_before_everything_could_be_listed_once(
    server: ApiServer, naps: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    refusing(server, 7)
    cache = Cache()

    await entry.first_resync(server.cluster, cache, scenes.settings())

    assert cache.runs() == {"run"}
    assert len(naps) == 7
    assert max(naps) <= 15
    assert caplog.text.count("nothing is done before everything could be listed once") == 7


async def test_every_resync_wakes_every_run_also_one_that_failed(
    server: ApiServer, naps: list[float], pulse: Pulse
) -> None:
    refusing(server, 2)
    cache, woken = Cache(), []
    cache.put(server.objects[KIND, "tickets"])

    class Queue:
        def enqueue(self, run: str) -> None:
            woken.append((run, pulse.resynced_at))

    with pytest.raises(asyncio.CancelledError):
        await entry.keep_resyncing(
            server.cluster, cache, scenes.settings(), cast("WorkQueue", Queue()), pulse
        )
    assert woken[:3] == [("run", None), ("run", None), ("run", NOW)]
    assert naps[0] == naps[3] == 300  # as configured, and again after it has healed
    assert all(nap <= 2 for nap in naps[1:3])  # in between with back-off


async def test_a_lost_lease_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("finetune_operator.__main__.os._exit", codes.append)
    monkeypatch.setattr("finetune_operator.__main__.logging.shutdown", lambda: None)

    await entry._keep(cast("Leadership", Election()))

    assert codes == [LEASE_LOST]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trainerImage: x\nworkers: 0\n", "workers"),
        ("trainerImage: x\nworkerz: 1\n", "workerz"),
        ("", "validation error"),
        (None, "No such file"),
    ],
)
def test_settings_that_cannot_be_used_end_it_with_code_2_and_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
    says: str,
) -> None:
    file = tmp_path / "settings.yaml"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["finetune-operator", "--settings", str(file)])
    monkeypatch.setattr("finetune_operator.__main__.logs.set_up", lambda **_: None)

    assert entry.run() == 2
    assert says in caplog.text
    assert str(file) in caplog.text


def test_told_to_stop_while_python_starts_it_stops_in_order(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, "http://127.0.0.1:1")
    metrics, health = free_ports(2)
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"{{trainerImage: x, metricsPort: {metrics}, healthPort: {health}}}")
    folder = tmp_path / "path"
    folder.mkdir()
    code = exit_code_when_told_to_leave(
        "finetune_operator", folder, "--settings", str(settings), KUBECONFIG=str(kubeconfig)
    )
    assert code == 0
