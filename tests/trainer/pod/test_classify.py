from dataclasses import replace

import pytest

from finetune_trainer.contract import Activity, FailureClass, RankFile
from finetune_trainer.pod.classify import Death, Observed, Verdict, classify
from finetune_trainer.pod.watchdog import Stop, StopCause

BUS, KILL, SEGV, ABRT, TERM = -7, -9, -11, -6, -15


def working(step: int | None = None) -> RankFile:
    return RankFile(pid=1, heartbeat=1, quiet_seconds=9, activity=Activity.TRAINING, step=step)


def ended(failure: FailureClass, at: float = 10, reason: str = "Why") -> RankFile:
    update = {"ended": at, "failure": failure, "reason": reason, "message": f"{failure} happened"}
    return working().model_copy(update=update)


def two(first: RankFile | None, second: RankFile | None, **more: object) -> Observed:
    files = {rank: file for rank, file in enumerate((first, second)) if file}
    return replace(Observed(expected=(0, 1), files=files, now=100), **more)


def class_and_reason(seen: Observed) -> tuple[FailureClass, str]:
    verdict = classify(seen)
    return verdict.failure, verdict.reason


SUCCEEDED = ended(FailureClass.SUCCESS)
LOST = ended(FailureClass.COMMUNICATION, at=5, reason="PeerLost")
PREEMPTED = ended(FailureClass.PREEMPTED, at=30, reason="Preempted")


def test_a_pod_succeeds_if_all_ranks_succeed_although_torchrun_was_killed_and_sigterm_came() -> None:
    seen = two(SUCCEEDED, SUCCEEDED, deaths=(Death(None, KILL, 20),), sigterm_time=9)
    assert classify(seen) == Verdict(FailureClass.SUCCESS, "Done", "Success happened", rank=0)


def test_the_earliest_cause_is_selected() -> None:
    seen = two(ended(FailureClass.STORAGE, at=12), ended(FailureClass.USER_DATA, at=11))
    assert classify(seen).failure is FailureClass.USER_DATA


@pytest.mark.parametrize("failure", sorted(set(FailureClass) - {FailureClass.SUCCESS}))
def test_every_other_class_takes_precedence_over_communication(failure: FailureClass) -> None:
    assert classify(two(LOST, ended(failure, at=50))).failure is failure


def test_a_crash_takes_precedence_over_an_earlier_communication_failure() -> None:
    assert class_and_reason(two(LOST, working(), deaths=(Death(1, SEGV, 6),))) == (
        FailureClass.INTERNAL,
        "RankCrashed",
    )


@pytest.mark.parametrize("lost_at", [5, 6, 7])
def test_an_exit_with_the_code_of_communication_takes_precedence_over_a_lost_peer(lost_at: int) -> None:
    exits = (Death(0, TERM, lost_at), Death(1, 7, 6))
    assert classify(two(working(), working(), deaths=exits)).message.startswith("Rank 1 exited with code 7")


def test_the_rank_file_takes_precedence_over_the_exit_code() -> None:
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
def test_a_rank_without_an_outcome_is_classified_by_exit_code_or_signal(
    code: int, oom_kills: int | None, expected: tuple[FailureClass, str]
) -> None:
    assert (
        class_and_reason(two(working(), None, deaths=(Death(1, code, 6),), oom_kills=oom_kills)) == expected
    )


def test_the_hint_for_sigbus_names_shared_memory() -> None:
    assert "sharedMemory" in classify(two(None, None, deaths=(Death(1, BUS, 6),))).hint


def test_an_abort_by_the_nccl_watchdog_is_a_communication_failure() -> None:
    tail = "[rank1]:[E] ProcessGroupNCCL.cpp:1 Watchdog caught collective operation timeout"
    seen = two(working(), working(), deaths=(Death(1, ABRT, 6),), tail=tail)
    assert class_and_reason(seen) == (FailureClass.COMMUNICATION, "CollectiveTimeout")


@pytest.mark.parametrize("failure", [FailureClass.INTERNAL, FailureClass.COMMUNICATION, FailureClass.HANG])
def test_an_oom_kill_of_a_helper_process_is_the_cause_of_a_vague_failure(failure: FailureClass) -> None:
    seen = two(ended(failure), working(), oom_kills=1)
    assert class_and_reason(seen) == (FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted")


def test_a_definite_cause_takes_precedence_over_an_oom_kill() -> None:
    assert classify(two(ended(FailureClass.USER_DATA), working(), oom_kills=1)).failure is (
        FailureClass.USER_DATA
    )


def test_an_oom_kill_of_torchrun_is_out_of_memory() -> None:
    seen = two(working(), working(), deaths=(Death(None, KILL, 6),), oom_kills=1)
    assert class_and_reason(seen) == (FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted")


def test_an_error_of_torchrun_before_the_start_of_ranks_is_a_rendezvous_failure() -> None:
    seen = two(None, None, agent_error="DistNetworkError: refused", deaths=(Death(None, 1, 6),))
    assert class_and_reason(seen) == (FailureClass.COMMUNICATION, "RendezvousFailed")


def test_an_end_without_result_error_or_death_is_an_internal_failure() -> None:
    assert class_and_reason(two(SUCCEEDED, working())) == (FailureClass.INTERNAL, "ResultMissing")


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (two(PREEMPTED, PREEMPTED, sigterm_time=20), "Preempted"),
        (two(PREEMPTED, PREEMPTED), "Preempted"),
        (two(PREEMPTED, LOST, sigterm_time=20), "Preempted"),
        (two(SUCCEEDED, ended(FailureClass.STORAGE, at=40), sigterm_time=20), "SaveFailed"),
        (two(working(), PREEMPTED, sigterm_time=20), "Preempted"),
        (two(working(), working(), sigterm_time=20, stop=Stop(StopCause.GRACE_OVER, 60)), "GraceOver"),
        (two(working(), working(), sigterm_time=20, stop=Stop(StopCause.TOLD_TWICE, 21)), "ToldTwice"),
        (two(None, None, sigterm_time=20, stop=Stop(StopCause.NOTHING_TO_SAVE, 20)), "NothingToSave"),
        (two(working(), None, sigterm_time=20, deaths=(Death(1, KILL, 25),)), "SaveFailed"),
    ],
)
def test_after_sigterm_the_class_is_preempted_however_the_ranks_end(seen: Observed, reason: str) -> None:
    assert class_and_reason(seen) == (FailureClass.PREEMPTED, reason)


def test_a_failure_before_sigterm_stays_the_cause() -> None:
    seen = two(ended(FailureClass.USER_DATA, at=10), working(), sigterm_time=11)
    assert classify(seen).failure is FailureClass.USER_DATA


def test_the_message_of_a_hang_names_rank_and_activity() -> None:
    stop = Stop(StopCause.HANG, 50, (1, 0), "600 s while Evaluating")
    verdict = classify(two(working(3), working(2), stop=stop))
    assert (verdict.failure, verdict.rank) == (FailureClass.HANG, 1)
    assert verdict.message == "No heartbeat from rank 1 for 600 s while Evaluating (all silent ranks: 1, 0)."


def test_an_unreachable_index_0_is_a_communication_failure() -> None:
    stop = Stop(StopCause.UNREACHABLE, 50, (0, 1), "The name x does not resolve (no such host).")
    verdict = classify(two(None, None, stop=stop, needs_rendezvous=True))
    assert (verdict.failure, verdict.reason) == (FailureClass.COMMUNICATION, "MasterUnreachable")
    assert verdict.message == stop.detail


@pytest.mark.parametrize(
    ("needs_rendezvous", "expected"),
    [
        (True, (FailureClass.COMMUNICATION, "RendezvousTimeout")),
        (False, (FailureClass.HANG, "RankSilent")),
    ],
)
def test_ranks_that_miss_the_start_up_deadline_fail_the_rendezvous_or_hang(
    needs_rendezvous: bool, expected: tuple[FailureClass, str]
) -> None:
    stop = Stop(StopCause.NEVER_STARTED, 50, (0, 1))
    assert class_and_reason(two(None, None, stop=stop, needs_rendezvous=needs_rendezvous)) == expected


def test_ranks_that_end_because_of_another_pod_have_lost_their_peer_unless_a_rank_has_another_cause() -> None:
    stop = Stop(StopCause.PEER_FAILED, 20, detail="index 1 reported RankKilled (class Internal)")
    verdict = classify(two(working(), working(), stop=stop))
    assert (verdict.failure, verdict.reason) == (FailureClass.COMMUNICATION, "PeerLost")
    assert "index 1 reported RankKilled (class Internal)" in verdict.message
    assert classify(two(working(), ended(FailureClass.NUMERICAL, at=30), stop=stop)).failure is (
        FailureClass.NUMERICAL
    )
    assert class_and_reason(two(working(), working(), stop=stop, deaths=(Death(0, KILL, 21),))) == (
        FailureClass.INTERNAL,
        "RankKilled",
    )
