import json
from pathlib import Path

import pytest

from devcluster import host
from devcluster.cluster import Cluster
from devcluster.places import state


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of plain files: its kernel settings and its folders."""
    settings = tmp_path / "sys"
    for name in host._SETTINGS:
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / name).write_text("0\n")
    monkeypatch.setattr(host, "_SYSCTL", settings)
    monkeypatch.setattr(host, "NODE_FOLDERS", (str(tmp_path / "there"), str(tmp_path / "made")))
    (tmp_path / "there").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def cluster(name: str) -> Cluster:
    return Cluster(name, state() / name)


def setting(machine: Path, name: str) -> Path:
    return machine / "sys" / name


def test_the_machine_is_as_before_after_the_only_cluster(machine: Path) -> None:
    host.admit(cluster("one"))
    assert (machine / "made").is_dir()
    setting(machine, "kernel/panic").write_text("10\n")
    host.dismiss(cluster("one"))
    assert setting(machine, "kernel/panic").read_text().strip() == "0"
    assert not (machine / "made").exists()
    assert (machine / "there").is_dir()
    assert not state().exists()


def test_it_is_put_back_by_the_last_of_two_and_to_what_it_was_before_the_first(machine: Path) -> None:
    host.admit(cluster("one"))
    setting(machine, "kernel/panic").write_text("10\n")
    host.admit(cluster("two"))
    host.dismiss(cluster("one"))
    assert setting(machine, "kernel/panic").read_text().strip() == "10"
    assert (machine / "made").is_dir()
    host.dismiss(cluster("two"))
    assert setting(machine, "kernel/panic").read_text().strip() == "0"
    assert not state().exists()


def test_admitting_again_does_not_take_changed_settings_for_the_old_ones(machine: Path) -> None:
    host.admit(cluster("one"))
    setting(machine, "vm/overcommit_memory").write_text("1\n")
    host.admit(cluster("one"))
    before = json.loads((state() / "before.json").read_text())
    assert before["settings"]["vm/overcommit_memory"] == "0"
    assert before["missing"] == [str(machine / "made")]


def test_a_folder_that_somebody_else_uses_by_now_stays(machine: Path) -> None:
    host.admit(cluster("one"))
    (machine / "made" / "theirs").write_text("x")
    host.dismiss(cluster("one"))
    assert (machine / "made" / "theirs").exists()


@pytest.mark.usefixtures("machine")
def test_a_removal_that_was_stopped_is_finished_by_the_next() -> None:
    host.admit(cluster("one"))
    cluster("one").folder.rename(host._leaving(cluster("one")))
    host.dismiss(cluster("one"))
    assert not state().exists()


def test_dismissing_what_never_was_does_nothing(machine: Path) -> None:
    host.dismiss(cluster("one"))
    assert not (machine / "state").exists()


@pytest.mark.parametrize(("setting", "share"), [("cpu.shares", "2048"), ("cpu.weight", "200")])
def test_pods_have_the_cpu_time_of_two_processes_under_contention(
    machine: Path, monkeypatch: pytest.MonkeyPatch, setting: str, share: str
) -> None:
    group = machine / "cgroup/pods"
    group.mkdir(parents=True)
    (group / setting).write_text("1024")
    monkeypatch.setattr(host, "_control_groups", lambda _: [group])
    host.ensure_control_groups(cluster("one"))
    assert (group / setting).read_text() == share
    assert [file.name for file in group.iterdir()] == [setting]
