"""Gangs of real supervisors on the loopback interface, whose ranks start again in the same pods."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest

from finetune_trainer.config import TrainConfig, World
from finetune_trainer.contract import FailureClass
from finetune_trainer.pod.processes import descendants
from tests.trainer.pod.test_supervisor import PAIR, Pod, make_train_config, until

Start = Callable[..., Pod]
HASTY = {"STOP_SECONDS": "8", "UNREACHABLE_SECONDS": "6"}
LOST = (7, FailureClass.COMMUNICATION, "PeerLost")
DONE = (0, FailureClass.SUCCESS, "Done")


KILLED_ONCE = (1, FailureClass.INTERNAL, "RankKilled")


@pytest.fixture
def gang(start: Start) -> Callable[..., list[Pod]]:
    """A function that starts the pods of a gang with one rank in each pod."""

    def begin(*scripts: str, torchrun: bool = False, limit: int | None = 3, **environment: str) -> list[Pod]:
        config = make_train_config(world=World(nodes=len(scripts)), in_place_restarts=limit)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        more = {} if torchrun else {"FAKE_AGENT": "1"}
        return [
            start(
                config,
                f"{node}={script}",
                node=node,
                ports=(port if node == 0 else 0, port),
                **{"POD_UID": f"{node}" * 8, **more, **environment},
            )
            for node, script in enumerate(scripts)
        ]

    return begin


def lose_peer(pod: Pod) -> None:
    """The rank of the pod fails as after the end of a peer."""
    (pod.paths.scratch / "peer-lost").touch()


def kill(pod: Pod) -> None:
    """Kills all processes of a pod, as the end of its first process does."""
    for pid in (pod.process.pid, *descendants(pod.process.pid)):
        os.kill(pid, signal.SIGKILL)
    pod.process.wait()


def endings(pods: list[Pod]) -> list[tuple[int, FailureClass, str]]:
    return [pod.ending() for pod in pods]


def in_place(pod: Pod) -> tuple[int, FailureClass, str] | None:
    """Number of restarts in place, and class and reason of the last failure before."""
    found = pod.message().in_place_restarts
    return (found.count, found.failure, found.reason) if found else None


def test_a_killed_rank_starts_again_with_all_ranks_of_its_gang_under_torchrun(
    gang: Callable[..., list[Pod]],
) -> None:
    pods = gang("deaf/succeed", "kill/succeed", torchrun=True)
    assert endings(pods) == [DONE, DONE]
    assert [in_place(pod) for pod in pods] == [KILLED_ONCE, KILLED_ONCE]


def test_three_pods_recover_from_two_failures(gang: Callable[..., list[Pod]]) -> None:
    pods = gang("deaf/deaf/succeed", "kill/deaf/succeed", "deaf/hang/succeed")
    assert endings(pods) == [DONE, DONE, DONE]
    assert in_place(pods[0]) == (2, FailureClass.HANG, "RankSilent")


def test_a_gang_of_one_pod_recovers_and_the_lost_steps_are_counted(start: Start) -> None:
    script = "0=lose-peer/succeed,1=work/succeed"
    pod = start(make_train_config(world=PAIR, in_place_restarts=1), script, FAKE_AGENT="1")
    pod.until_working(0, 1)
    lose_peer(pod)
    assert pod.ending() == DONE
    assert in_place(pod) == (1, FailureClass.COMMUNICATION, "PeerLost")
    message = pod.message()
    assert message.in_place_restarts
    assert message.in_place_restarts.lost_steps == 4
    assert message.checkpoint
    assert message.checkpoint.step == 5


@pytest.mark.parametrize("limit", [None, 1])
def test_when_the_restarts_are_used_up_the_pod_ends_with_its_cause(start: Start, limit: int | None) -> None:
    pod = start(make_train_config(in_place_restarts=limit), "0=kill,1=work", FAKE_AGENT="1")
    assert pod.ending() == (10, FailureClass.INTERNAL, "RankKilled")
    assert in_place(pod) == (KILLED_ONCE if limit else None)


def test_a_failure_that_a_restart_cannot_cure_ends_all_pods(gang: Callable[..., list[Pod]]) -> None:
    first, second = gang("lose-peer", "storage")
    assert second.ending() == (5, FailureClass.STORAGE, "StorageDenied")
    first.until_working(0)
    lose_peer(first)
    assert first.ending() == LOST
    assert in_place(first) is None


def test_after_the_end_of_a_supervisor_the_others_end_with_their_own_cause(
    gang: Callable[..., list[Pod]],
) -> None:
    first, second, third = gang("lose-peer", "lose-peer", "deaf", **HASTY)
    for number, pod in enumerate((first, second, third)):
        pod.until_working(number)
    kill(third)
    lose_peer(first)
    lose_peer(second)
    assert endings([first, second]) == [LOST, LOST]
    assert "no report of the end within 8 s from index 2" in first.log()


def test_after_the_end_of_the_first_supervisor_the_others_end_with_their_own_cause(
    gang: Callable[..., list[Pod]],
) -> None:
    first, second = gang("deaf", "lose-peer", **HASTY)
    first.until_working(0)
    second.until_working(1)
    kill(first)
    lose_peer(second)
    assert second.ending() == LOST


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("lose-peer", (8, FailureClass.PREEMPTED, "Preempted")),
        ("kill", (10, FailureClass.INTERNAL, "RankKilled")),
    ],
)
def test_after_sigterm_during_a_recovery_only_a_lost_peer_counts_as_preempted(
    gang: Callable[..., list[Pod]], script: str, ending: tuple[int, FailureClass, str]
) -> None:
    first, second = gang(script, "deaf")
    second.until_working(1)
    second.process.send_signal(signal.SIGSTOP)
    if script == "lose-peer":
        first.until_working(0)
        lose_peer(first)
    until(lambda: "round 0 of the gang: Stop" in first.log())
    first.process.send_signal(signal.SIGTERM)
    assert first.ending() == ending
    second.process.send_signal(signal.SIGCONT)


def test_after_sigterm_of_one_pod_the_ranks_end_as_without_recovery(gang: Callable[..., list[Pod]]) -> None:
    first, second = gang("lose-peer", "work")
    first.until_working(0)
    second.until_working(1)
    second.process.send_signal(signal.SIGTERM)
    until(lambda: "round 0 of the gang: GiveUp" in first.log())
    lose_peer(first)
    assert endings([first, second]) == [LOST, (8, FailureClass.PREEMPTED, "Preempted")]
    assert (second.paths.scratch / "saved-1").exists()


def test_nothing_of_the_round_before_is_read_in_the_next_round(start: Start) -> None:
    config: TrainConfig = make_train_config(in_place_restarts=1)
    pod = start(config, "0=lose-peer/never-start,1=work/work", FAKE_AGENT="1")
    pod.until_working(0, 1)
    shared = pod.paths.shared_memory
    shared.mkdir(parents=True)
    for name in ("nccl-1", "other"):
        (shared / name).touch()
    (shared / "torch_1" / "deep").mkdir(parents=True)
    (shared / "torch_1" / "deep" / "file").touch()
    before = pod.rank_file(1).pid

    def has_new_rank_1() -> bool:
        with suppress(FileNotFoundError):
            return pod.rank_file(1).pid != before
        return False

    lose_peer(pod)
    until(lambda: "restarting in place: round 1" in pod.log())
    until(has_new_rank_1)
    assert not (pod.paths.ranks / "0.json").exists()
    assert not (pod.paths.scratch / "peer-lost").exists()
    assert not (pod.paths.errors / "0.txt").exists()
    assert list(shared.iterdir()) == []
