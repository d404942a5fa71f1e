from dataclasses import replace

import pytest

from finetune_trainer.contract import Activity, FailureClass, RankFile
from finetune_trainer.pod.classify import Death, Observed, Verdict, classify
from finetune_trainer.pod.watchdog import Stop, Why

BUS, KILL, SEGV, ABRT, TERM = -7, -9, -11, -6, -15


def working(step: int | None = None) -> RankFile:
    return RankFile(pid=1, heartbeat=1, quiet_seconds=9, activity=Activity.TRAINING, step=step)


def ended(failure: FailureClass, at: float = 10, reason: str = "Why") -> RankFile:
    update = {"ended": at, "failure": failure, "reason": reason, "message": f"{failure} happened"}
    return working().model_copy(update=update)


def two(first: RankFile | None, second: RankFile | None, **more: object) -> Observed:
    files = {rank: file for rank, file in enumerate((first, second)) if file}
    return replace(Observed(expected=(0, 1), files=files, now=100), **more)


def judged(seen: Observed) -> tuple[FailureClass, str]:
    verdict = classify(seen)
    return verdict.failure, verdict.reason


DONE = ended(FailureClass.SUCCESS)
LOST = ended(FailureClass.COMMUNICATION, at=5, reason="PeerLost")
LEFT = ended(FailureClass.PREEMPTED, at=30, reason="Preempted")


def test_all_ranks_done_is_success_even_if_torchrun_or_the_kubelet_disagree() -> None:
    seen = two(DONE, DONE, deaths=(Death(None, KILL, 20),), asked_to_leave=9)
    assert classify(seen) == Verdict(FailureClass.SUCCESS, "Done", "Success happened", rank=0)


def test_the_first_cause_by_time_wins() -> None:
    seen = two(ended(FailureClass.STORAGE, at=12), ended(FailureClass.USER_DATA, at=11))
    assert classify(seen).failure is FailureClass.USER_DATA


@pytest.mark.parametrize("failure", sorted(set(FailureClass) - {FailureClass.SUCCESS}))
def test_communication_yields_to_every_other_class(failure: FailureClass) -> None:
    assert classify(two(LOST, ended(failure, at=50))).failure is failure


def test_a_death_without_a_word_beats_an_earlier_communication_failure() -> None:
    assert judged(two(LOST, working(), deaths=(Death(1, SEGV, 6),))) == (
        FailureClass.INTERNAL,
        "RankCrashed",
    )


@pytest.mark.parametrize("lost_at", [5, 6, 7])
def test_a_lost_peer_yields_to_the_peer_whose_exit_code_says_communication(lost_at: int) -> None:
    exits = (Death(0, TERM, lost_at), Death(1, 7, 6))
    assert classify(two(working(), working(), deaths=exits)).message.startswith("Rank 1 exited with code 7")


def test_what_a_rank_says_beats_how_its_process_ended() -> None:
    seen = two(ended(FailureClass.NUMERICAL), working(), deaths=(Death(0, 1, 11), Death(1, TERM, 11)))
    assert classify(seen).failure is FailureClass.NUMERICAL


@pytest.mark.parametrize(
    ("code", "oom_kills", "expected"),
    [
        (KILL, 1, (FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted")),
        (KILL, 0, (FailureClass.INTERNAL, "RankKilled")),
        (KILL, None, (FailureClass.INTERNAL, "RankKilled")),
        (SEGV, 0, (FailureClass.INTERNAL, "RankCrashed")),
        (ABRT, 0, (FailureClass.INTERNAL, "RankCrashed")),
        (BUS, 0, (FailureClass.INTERNAL, "RankCrashed")),
        (TERM, 0, (FailureClass.COMMUNICATION, "PeerLost")),
        (7, 0, (FailureClass.COMMUNICATION, "RankExited")),
        (3, 0, (FailureClass.USER_DATA, "RankExited")),
        (1, 0, (FailureClass.INTERNAL, "RankExited")),
        (255, 0, (FailureClass.INTERNAL, "RankExited")),
    ],
)
def test_a_rank_that_left_no_word_is_judged_by_its_end(
    code: int, oom_kills: int | None, expected: tuple[FailureClass, str]
) -> None:
    assert judged(two(working(), None, deaths=(Death(1, code, 6),), oom_kills=oom_kills)) == expected


def test_a_bus_error_points_at_shared_memory() -> None:
    assert "sharedMemory" in classify(two(None, None, deaths=(Death(1, BUS, 6),))).hint


def test_an_abort_by_nccl_is_communication() -> None:
    tail = "[rank1]:[E] ProcessGroupNCCL.cpp:1 Watchdog caught collective operation timeout"
    seen = two(working(), working(), deaths=(Death(1, ABRT, 6),), tail=tail)
    assert judged(seen) == (FailureClass.COMMUNICATION, "CollectiveTimeout")


@pytest.mark.parametrize("failure", [FailureClass.INTERNAL, FailureClass.COMMUNICATION, FailureClass.HANG])
def test_an_oom_kill_of_a_helper_process_explains_what_followed(failure: FailureClass) -> None:
    seen = two(ended(failure), working(), oom_kills=1)
    assert judged(seen) == (FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted")


def test_an_oom_kill_does_not_cover_a_definite_cause() -> None:
    assert classify(two(ended(FailureClass.USER_DATA), working(), oom_kills=1)).failure is (
        FailureClass.USER_DATA
    )


def test_torchrun_killed_for_memory() -> None:
    seen = two(working(), working(), deaths=(Death(None, KILL, 6),), oom_kills=1)
    assert judged(seen) == (FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted")


def test_torchrun_that_cannot_meet_the_others() -> None:
    seen = two(None, None, agent_error="DistNetworkError: refused", deaths=(Death(None, 1, 6),))
    assert judged(seen) == (FailureClass.COMMUNICATION, "RendezvousFailed")


def test_nothing_said_and_nothing_seen_is_a_bug_of_ours() -> None:
    assert judged(two(DONE, working())) == (FailureClass.INTERNAL, "ResultMissing")


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (two(LEFT, LEFT, asked_to_leave=20), "Preempted"),
        (two(LEFT, LEFT), "Preempted"),
        (two(LEFT, LOST, asked_to_leave=20), "Preempted"),
        (two(DONE, ended(FailureClass.STORAGE, at=40), asked_to_leave=20), "SaveFailed"),
        (two(working(), LEFT, asked_to_leave=20), "Preempted"),
        (two(working(), working(), asked_to_leave=20, stop=Stop(Why.GRACE_OVER, 60)), "GraceOver"),
        (two(working(), working(), asked_to_leave=20, stop=Stop(Why.TOLD_TWICE, 21)), "ToldTwice"),
        (two(None, None, asked_to_leave=20, stop=Stop(Why.NOTHING_TO_SAVE, 20)), "NothingToSave"),
        (two(working(), None, asked_to_leave=20, deaths=(Death(1, KILL, 25),)), "SaveFailed"),
    ],
)
def test_told_to_leave_is_preempted_whatever_became_of_saving(seen: Observed, reason: str) -> None:
    assert judged(seen) == (FailureClass.PREEMPTED, reason)


def test_a_failure_before_the_order_to_leave_stays_the_cause() -> None:
    seen = two(ended(FailureClass.USER_DATA, at=10), working(), asked_to_leave=11)
    assert classify(seen).failure is FailureClass.USER_DATA


def test_a_hang_names_rank_and_activity() -> None:
    stop = Stop(Why.HANG, 50, (1, 0), "600 s while Evaluating")
    verdict = classify(two(working(3), working(2), stop=stop))
    assert (verdict.failure, verdict.rank) == (FailureClass.HANG, 1)
    assert verdict.message == "No sign of life from rank 1 for 600 s while Evaluating (silent: ranks 1, 0)."


def test_a_master_that_does_not_answer() -> None:
    stop = Stop(Why.UNREACHABLE, 50, (0, 1), "The name x does not resolve (no such host).")
    verdict = classify(two(None, None, stop=stop, meets=True))
    assert (verdict.failure, verdict.reason) == (FailureClass.COMMUNICATION, "MasterUnreachable")
    assert verdict.message == stop.detail


@pytest.mark.parametrize(
    ("meets", "expected"),
    [
        (True, (FailureClass.COMMUNICATION, "RendezvousTimeout")),
        (False, (FailureClass.HANG, "RankSilent")),
    ],
)
def test_ranks_that_never_started(meets: bool, expected: tuple[FailureClass, str]) -> None:
    stop = Stop(Why.NEVER_STARTED, 50, (0, 1))
    assert judged(two(None, None, stop=stop, meets=meets)) == expected
