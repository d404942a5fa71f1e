"""What the operator's process decides by itself: whether it is well, and how it begins and ends."""

import sys
from pathlib import Path
from typing import cast

import pytest

from devcluster.controlplane import free_ports
from finetune_operator import __main__ as entry
from finetune_operator.__main__ import LEASE_LOST, UNHEALTHY_LEASE_SECONDS, Health
from finetune_operator.runtime.api_client import LeaseLostError
from finetune_operator.runtime.leader_election import Leadership
from finetune_operator.runtime.scopes import Scopes
from tests.firstprocess import exit_code_when_told_to_leave
from tests.operator import scenes
from tests.operator.kubeconfig import write_kubeconfig

NOW = 100_000.0
LONG_AGO = NOW - 4 * 300 - 1
"""Four resyncs of 300 s were missed."""
SICK = "no list of any namespace was answered for 1201 s"


class Election:
    """A lease that was looked at just now."""

    tried_at = NOW

    async def keep(self) -> None:
        raise LeaseLostError("another leads now")


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> Health:
    monkeypatch.setattr("finetune_operator.__main__.time.monotonic", lambda: NOW)
    return Health(scenes.settings(), cast("Leadership", Election()), Scopes(["sick", "well"]))


@pytest.mark.parametrize(
    ("leads_since", "sick", "well", "says"),
    [
        (None, 0, 0, None),  # a standby that waits for the lease
        (NOW - 1200, 0, 0, None),  # its first lists take long
        (LONG_AGO, 0, 0, SICK),
        (1, LONG_AGO, NOW, None),  # one sick scope is a matter of the metric
        (1, LONG_AGO, NOW - 1200, None),
        (1, LONG_AGO, LONG_AGO, SICK),
    ],
)
def test_a_leader_to_which_no_scope_is_answered_any_more_is_unwell(
    health: Health, leads_since: float | None, sick: float, well: float, says: str | None
) -> None:
    health.leads_since = leads_since
    health.scopes.of("sick").answered_at = sick
    health.scopes.of("well").answered_at = well

    assert health.problem() == says


def test_a_replica_that_does_not_look_at_the_lease_is_unwell(health: Health) -> None:
    health.leadership.tried_at = NOW - UNHEALTHY_LEASE_SECONDS
    assert health.problem() is None
    health.leadership.tried_at -= 1
    assert health.problem() == "the lease was last looked at 61 s ago"


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
        (
            "trainerImage: x\nlease: {durationSeconds: 3, renewSeconds: 30}\n",
            "renewSeconds (30) must be less than durationSeconds (3) minus 2",
        ),
        (
            "trainerImage: x\nlease: {durationSeconds: 5, renewSeconds: 3}\n",
            "renewSeconds (3) must be less than durationSeconds (5) minus 2",
        ),
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
