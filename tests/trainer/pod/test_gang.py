"""The agreement of the supervisors of a gang to restart in place, with lost, late and repeated messages."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_trainer.contract import FailureClass, InPlaceRestarts
from finetune_trainer.pod.gang import (
    STOP_SECONDS,
    UNREACHABLE_SECONDS,
    Answer,
    End,
    Failed,
    Gang,
    Order,
    Report,
    Step,
    answer_of,
    can_recover,
    expire,
    must_stop,
    next_step,
    receive,
)

KILLED = End(failure=FailureClass.INTERNAL, reason="RankKilled", lost_steps=3)
LOST = End(failure=FailureClass.COMMUNICATION, reason="PeerLost")
HANG = End(failure=FailureClass.HANG, reason="RankSilent", lost_steps=4)
NO_MEMORY = End(failure=FailureClass.OUT_OF_MEMORY, reason="GpuMemoryExhausted")
SUCCESS = End(failure=FailureClass.SUCCESS, reason="Done")


def ended(index: int, end: End, current: int = 0) -> Report:
    can = can_recover(end.failure, end.reason)
    return Report(index=index, round=current, recoverable=can, end=end)


def after(gang: Gang, *reports: Report, now: float = 0) -> Gang:
    for report in reports:
        gang = receive(gang, report, now)
    return gang


@pytest.mark.parametrize(
    ("failure", "reason", "expected"),
    [
        (FailureClass.COMMUNICATION, "PeerLost", True),
        (FailureClass.COMMUNICATION, "CollectiveTimeout", True),
        (FailureClass.COMMUNICATION, "RankExited", True),
        (FailureClass.COMMUNICATION, "MasterUnreachable", False),
        (FailureClass.COMMUNICATION, "RendezvousTimeout", False),
        (FailureClass.COMMUNICATION, "RendezvousFailed", False),
        (FailureClass.HANG, "RankSilent", True),
        (FailureClass.INTERNAL, "RankKilled", True),
        (FailureClass.INTERNAL, "RankCrashed", False),
        (FailureClass.INTERNAL, "UnexpectedError", False),
        (FailureClass.USER_CONFIG, "GpuMissing", False),
        (FailureClass.USER_DATA, "BadRows", False),
        (FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted", False),
        (FailureClass.STORAGE, "StorageFailed", False),
        (FailureClass.NUMERICAL, "NonFiniteLogits", False),
        (FailureClass.PREEMPTED, "Preempted", False),
        (FailureClass.SUCCESS, "Done", False),
    ],
)
def test_only_failures_that_new_processes_cure_are_recovered(
    failure: FailureClass, reason: str, expected: bool
) -> None:
    assert can_recover(failure, reason) is expected


def test_the_first_failure_stops_all_pods_and_the_last_end_begins_the_next_round() -> None:
    gang = after(Gang(3, 2), Report(index=2, round=0), ended(1, KILLED))
    assert answer_of(gang) == Answer(
        round=0, order=Order.STOP, failed=Failed(index=1, failure=FailureClass.INTERNAL, reason="RankKilled")
    )
    gang = after(gang, ended(0, LOST))
    assert gang.order is Order.STOP
    gang = after(gang, ended(2, LOST))
    restarts = InPlaceRestarts(count=1, failure=FailureClass.INTERNAL, reason="RankKilled", lost_steps=3)
    assert answer_of(gang) == Answer(round=1, order=Order.RUN, restarts=restarts)


def test_a_lost_peer_is_not_the_cause_of_a_restart_if_there_is_another_cause() -> None:
    gang = after(Gang(2, 9), ended(0, LOST), ended(1, HANG))
    assert gang.restarts
    assert (gang.restarts.failure, gang.restarts.reason) == (FailureClass.HANG, "RankSilent")


def at(end: End, step: int, checkpoint: int = 0) -> End:
    return end.model_copy(update={"step": step, "checkpoint_step": checkpoint})


@pytest.mark.parametrize(
    ("step", "checkpoint", "expected"),
    [(10, 5, Order.GIVE_UP), (8, 5, Order.GIVE_UP), (11, 5, Order.RUN), (8, 7, Order.RUN)],
)
def test_a_second_failure_without_a_later_step_or_a_newer_checkpoint_ends_the_recovery(
    step: int, checkpoint: int, expected: Order
) -> None:
    gang = after(Gang(2, 9), ended(1, LOST), ended(0, at(HANG, 10, 5)))
    assert (gang.round, gang.order) == (1, Order.RUN)
    gang = after(gang, ended(1, LOST, current=1), ended(0, at(HANG, step, checkpoint), current=1))
    assert gang.order is expected
    if expected is Order.GIVE_UP:
        assert gang.why == "no step after 10 and no newer checkpoint since the last restart"


def test_restarts_and_lost_steps_add_up() -> None:
    gang = after(Gang(1, 9), ended(0, KILLED), ended(0, at(HANG, 1), current=1))
    assert gang.restarts == InPlaceRestarts(
        count=2, failure=FailureClass.HANG, reason="RankSilent", lost_steps=7
    )


def test_a_gang_of_one_pod_restarts_at_once_until_its_restarts_are_used_up() -> None:
    gang = after(Gang(1, 2), ended(0, KILLED), ended(0, at(KILLED, 1), current=1))
    assert (gang.round, gang.order) == (2, Order.RUN)
    gang = after(gang, ended(0, KILLED, current=2))
    assert (gang.round, gang.order, gang.why) == (2, Order.GIVE_UP, "2 of 2 restarts are used up")
    assert answer_of(gang).restarts == InPlaceRestarts(
        count=2, failure=FailureClass.INTERNAL, reason="RankKilled", lost_steps=6
    )


@pytest.mark.parametrize("end", [NO_MEMORY, SUCCESS])
def test_a_failure_that_a_restart_cannot_cure_ends_the_recovery(end: End) -> None:
    assert after(Gang(3, 5), ended(1, end)).order is Order.GIVE_UP
    assert after(Gang(3, 5), ended(0, LOST), ended(1, end), ended(2, LOST)).order is Order.GIVE_UP


def test_sigterm_of_one_pod_ends_the_recovery_and_stops_no_other_pod() -> None:
    gang = after(Gang(2, 5), Report(index=1, round=0, recoverable=False), ended(0, LOST))
    assert gang.order is Order.GIVE_UP
    assert not must_stop(0, answer_of(gang))


def test_sigterm_after_the_end_of_a_pod_ends_the_recovery() -> None:
    sigterm = Report(index=1, round=0, recoverable=False)
    assert after(Gang(2, 5), ended(1, KILLED), sigterm).order is Order.GIVE_UP
    late = after(Gang(2, 5), ended(1, KILLED), ended(0, LOST), sigterm)
    assert (late.round, late.order, late.why) == (1, Order.GIVE_UP, "index 1 cannot restart its ranks")


def test_the_gang_gives_up_if_a_pod_does_not_stop_in_time() -> None:
    gang = after(Gang(3, 5), ended(1, KILLED), now=100)
    assert expire(gang, 100 + STOP_SECONDS).order is Order.STOP
    given_up = expire(gang, 100.1 + STOP_SECONDS)
    assert (given_up.order, given_up.why) == (
        Order.GIVE_UP,
        "no report of the end within 30 s from index 0, 2",
    )
    late = after(gang, ended(0, LOST), ended(2, LOST), now=101 + STOP_SECONDS)
    assert late.order is Order.GIVE_UP


def test_reports_of_other_rounds_and_of_unknown_pods_count_for_nothing() -> None:
    gang = after(Gang(2, 5), ended(0, KILLED), ended(1, LOST))
    for stale in (
        ended(0, KILLED),
        ended(1, HANG),
        ended(1, KILLED, current=2),
        ended(7, KILLED, current=1),
    ):
        assert after(gang, stale) == gang


def test_the_end_of_a_pod_is_final_for_its_round() -> None:
    gang = after(Gang(3, 5), ended(0, KILLED))
    assert after(gang, Report(index=0, round=0), ended(0, LOST)) == gang


def test_a_pod_without_answers_gives_up_after_a_time() -> None:
    stop = Answer(round=1, order=Order.STOP)
    assert next_step(1, None, UNREACHABLE_SECONDS) is Step.WAIT
    assert next_step(1, stop, UNREACHABLE_SECONDS) is Step.WAIT
    assert next_step(1, stop, UNREACHABLE_SECONDS + 0.1) is Step.LEAVE
    assert next_step(1, None, UNREACHABLE_SECONDS + 0.1) is Step.LEAVE


@pytest.mark.parametrize("order", [Order.RUN, Order.STOP])
def test_a_pod_follows_the_gang_into_the_next_round_although_the_round_has_failed_already(
    order: Order,
) -> None:
    answer = Answer(round=2, order=order)
    assert next_step(1, answer, 0) is Step.START
    assert must_stop(2, answer) is (order is Order.STOP)
    assert not must_stop(1, Answer(round=0, order=Order.STOP)), "an answer of an earlier round"
    assert not must_stop(1, None)


@dataclass
class Pod:
    """A pod in a simulation: its ranks run, or have ended with a report."""

    index: int
    round: int = 0
    report: Report = field(init=False)
    answer: Answer | None = None
    sigterm: bool = False
    left: End | None = None
    """The cause with which the pod ended; None while the pod lives."""
    dead: bool = False
    """Whether the supervisor was killed."""

    def __post_init__(self) -> None:
        self.report = Report(index=self.index, round=0)

    @property
    def runs(self) -> bool:
        return not self.dead and self.left is None and self.report.end is None

    @property
    def waits(self) -> bool:
        return not self.dead and self.left is None and self.report.end is not None

    def end(self, end: End) -> None:
        can = can_recover(end.failure, end.reason) and not self.sigterm
        self.report = Report(index=self.index, round=self.round, recoverable=can, end=end)

    def leave(self) -> None:
        self.left = self.report.end
        self.report = self.report.model_copy(update={"recoverable": False})

    def proceed(self, silent_seconds: float) -> None:
        """What a supervisor does in its next turn."""
        if self.runs and not self.sigterm and must_stop(self.round, self.answer):
            self.end(LOST)
        elif self.waits:
            can = self.report.recoverable
            step = next_step(self.round, self.answer, silent_seconds) if can else Step.LEAVE
            if step is Step.LEAVE:
                self.leave()
            elif step is Step.START:
                assert self.answer
                self.round = self.answer.round
                self.report = Report(index=self.index, round=self.round)


class Simulation(RuleBasedStateMachine):
    """Pods whose ranks fail, whose messages are lost, late or repeated, and whose supervisors are killed."""

    pick = st.integers(0, 2)

    @initialize(
        pods=st.integers(1, 3),
        limit=st.integers(0, 3),
        trouble=st.sampled_from(["none", "none", "sigterm", "sigterm", "all"]),
    )
    def begin(self, pods: int, limit: int, trouble: str) -> None:
        """Begins the first round; without trouble, nothing ends the recovery for good."""
        self.gang, self.limit, self.now, self.trouble = Gang(pods, limit), limit, 0.0, trouble
        self.pods = [Pod(index) for index in range(pods)]
        self.reports: list[Report] = []
        self.causes: dict[tuple[int, int], End] = {}

    def pod(self, number: int) -> Pod:
        return self.pods[number % len(self.pods)]

    @rule(number=pick, end=st.sampled_from([KILLED, LOST, HANG]), step=st.integers(0, 9))
    def ranks_fail(self, number: int, end: End, step: int) -> None:
        self.ranks_end(number, at(end, step))

    @precondition(lambda self: self.trouble == "all")
    @rule(number=pick, end=st.sampled_from([NO_MEMORY, SUCCESS]))
    def ranks_end(self, number: int, end: End) -> None:
        pod = self.pod(number)
        if pod.runs:
            pod.end(end)
            self.causes[pod.index, pod.round] = end

    @precondition(lambda self: self.trouble != "none")
    @rule(number=pick)
    def sigterm(self, number: int) -> None:
        pod = self.pod(number)
        if pod.runs or pod.waits:
            pod.sigterm = True
            pod.leave()

    @precondition(lambda self: self.trouble != "none")
    @rule(number=pick, end=st.sampled_from([KILLED, LOST, HANG]))
    def sigterm_after_the_report_of_the_end(self, number: int, end: End) -> None:
        self.ranks_end(number, end)
        self.exchange(number)
        self.sigterm(number)

    @precondition(lambda self: self.trouble == "all")
    @rule(number=pick)
    def supervisor_is_killed(self, number: int) -> None:
        self.pod(number).dead = True

    @rule(number=pick)
    def exchange(self, number: int) -> None:
        pod = self.pod(number)
        if not pod.dead and pod.left is None and (pod.index == 0 or self.first_lives):
            self.reports.append(pod.report)
            self.gang = receive(self.gang, pod.report, self.now)
            pod.answer = answer_of(self.gang)

    @rule(number=pick)
    def report_arrives_and_answer_is_lost(self, number: int) -> None:
        pod = self.pod(number)
        if not pod.dead and self.first_lives:
            self.reports.append(pod.report)
            self.gang = receive(self.gang, pod.report, self.now)

    @precondition(lambda self: any(report.end for report in self.reports))
    @rule(data=st.data())
    def old_report_arrives_again(self, data: st.DataObject) -> None:
        self.gang = receive(
            self.gang, data.draw(st.sampled_from([report for report in self.reports if report.end])), self.now
        )

    @rule(number=pick)
    def exchange_and_turn(self, number: int) -> None:
        self.exchange(number)
        self.turn(number, 0.0)

    @rule(number=pick, silent=st.sampled_from([0.0, 0.0, UNREACHABLE_SECONDS + 1]))
    def turn(self, number: int, silent: float) -> None:
        pod = self.pod(number)
        if not pod.dead:
            pod.proceed(0.0 if pod.index == 0 else silent)

    @rule(seconds=st.sampled_from([1.0, 2.0, STOP_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.gang = expire(self.gang, self.now)

    @property
    def first_lives(self) -> bool:
        return not self.pods[0].dead and self.pods[0].left is None

    @invariant()
    def ranks_of_one_round_run(self) -> None:
        assert len({pod.round for pod in self.pods if pod.runs}) <= 1

    @invariant()
    def restarts_are_limited(self) -> None:
        assert all(pod.round <= self.limit for pod in self.pods)

    @invariant()
    def every_restart_but_the_first_follows_progress(self) -> None:
        steps = [
            max((end.step for (_, ended), end in self.causes.items() if ended == current), default=0)
            for current in range(self.gang.round)
        ]
        assert steps == sorted(set(steps))

    @invariant()
    def every_pod_ends_with_the_cause_that_the_pod_observed(self) -> None:
        for pod in self.pods:
            if pod.left:
                assert pod.left == self.causes.get((pod.index, pod.round), LOST)

    @invariant()
    def no_round_follows_a_failure_that_a_restart_cannot_cure(self) -> None:
        for (index, current), end in self.causes.items():
            if not can_recover(end.failure, end.reason):
                assert self.pods[index].round == current
                assert self.gang.round == current

    def teardown(self) -> None:
        """With messages that arrive, every pod comes to run in the current round, or ends."""
        for pod in self.pods:
            self.report_arrives_and_answer_is_lost(pod.index)
        for _ in range(10):
            self.now += STOP_SECONDS / 2
            for pod in self.pods:
                self.exchange(pod.index)
                if not pod.dead:
                    pod.proceed(0.0 if self.first_lives else UNREACHABLE_SECONDS + 1)
                self.ranks_of_one_round_run()
        assert not any(pod.waits for pod in self.pods)
        # The operator ends an attempt with a dead pod.
        dead = any(pod.dead for pod in self.pods)
        if any(pod.runs and not pod.sigterm for pod in self.pods) and self.first_lives and not dead:
            running = [pod for pod in self.pods if pod.runs]
            assert len(running) == len(self.pods) or self.gang.order is Order.GIVE_UP


Simulation.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestSimulation = Simulation.TestCase
