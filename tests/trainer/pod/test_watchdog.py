from dataclasses import replace

from finetune_trainer.contract import Activity, FailureClass, RankFile
from finetune_trainer.pod.watchdog import Context, Silence, Stop, StopCause, decide, update_silences


def rank(heartbeat: float = 1, step: int | None = None, **more: object) -> RankFile:
    known = RankFile(pid=1, heartbeat=heartbeat, quiet_seconds=60, activity=Activity.TRAINING, step=step)
    return known.model_copy(update=more)


def observations(
    *files: RankFile | None, silent_seconds: tuple[float, ...] = (0, 0), **more: object
) -> Context:
    known = {number: file for number, file in enumerate(files) if file}
    silences = {number: Silence(file.heartbeat, silent_seconds[number]) for number, file in known.items()}
    plain = Context(
        expected=(0, 1),
        files=known,
        silences=silences,
        gone={},
        now=1000,
        start_seconds_left=100,
        sigterm_time=None,
        grace_seconds=100,
    )
    return replace(plain, **more)


def cause_of(context: Context) -> StopCause | None:
    stop = decide(context)
    return stop.cause if stop else None


FAILED = {"ended": 995.0, "failure": FailureClass.STORAGE}
PREEMPTED = {"ended": 995.0, "failure": FailureClass.PREEMPTED}
SUCCEEDED = {"ended": 960.0, "failure": FailureClass.SUCCESS}


def test_ranks_with_recent_heartbeats_go_on() -> None:
    assert decide(observations(rank(), rank(), silent_seconds=(59, 60))) is None


def test_a_silence_ends_when_the_heartbeat_changes_in_either_direction() -> None:
    silent = update_silences({}, {0: rank(heartbeat=500)}, 0.2)
    silent = update_silences(silent, {0: rank(heartbeat=500)}, 0.25)
    silent = update_silences(silent, {0: rank(heartbeat=500)}, 0.25)
    assert silent[0].seconds == 0.5
    assert update_silences(silent, {0: rank(heartbeat=2)}, 0.25)[0].seconds == 0
    assert update_silences(silent, {0: rank(heartbeat=501)}, 0.25)[0].seconds == 0


def test_an_update_counts_at_most_one_second_so_a_frozen_supervisor_detects_no_hang() -> None:
    silent = update_silences({0: Silence(500)}, {0: rank(heartbeat=500)}, 3600)
    assert silent[0].seconds == 1


def test_a_hang_lists_the_rank_with_the_lowest_step_first() -> None:
    stop = decide(observations(rank(step=8), rank(step=7), silent_seconds=(70, 65)))
    assert stop == Stop(StopCause.HANG, 1000, (1, 0), "65 s while Training")


def test_each_rank_sets_its_own_quiet_seconds() -> None:
    assert decide(observations(rank(quiet_seconds=600.0), rank(), silent_seconds=(500, 0))) is None


def test_an_ended_rank_needs_no_heartbeat() -> None:
    assert (
        decide(observations(rank(**{**SUCCEEDED, "ended": 999.0}), rank(), silent_seconds=(500, 0))) is None
    )


def test_every_rank_must_write_its_file_before_the_start_up_deadline() -> None:
    assert decide(observations(rank(), None)) is None
    assert decide(observations(rank(), None, start_seconds_left=0)) == Stop(
        StopCause.NEVER_STARTED, 1000, (1,)
    )


def test_the_other_ranks_may_go_on_for_ten_seconds_after_a_failure() -> None:
    assert decide(observations(rank(**FAILED), rank())) is None
    assert cause_of(observations(rank(**FAILED), rank(), now=1006)) is StopCause.LINGERING


def test_the_other_ranks_may_go_on_for_ten_seconds_after_a_death() -> None:
    assert decide(observations(rank(), rank(), gone={1: 995})) is None
    assert cause_of(observations(rank(), rank(), gone={1: 985})) is StopCause.LINGERING


def test_a_rank_that_has_succeeded_waits_for_the_other_ranks() -> None:
    assert decide(observations(rank(**SUCCEEDED), rank(), gone={0: 960})) is None


def test_torchrun_may_run_for_thirty_seconds_after_the_last_success() -> None:
    assert decide(observations(rank(**SUCCEEDED), rank(**SUCCEEDED), now=985)) is None
    assert cause_of(observations(rank(**SUCCEEDED), rank(**SUCCEEDED))) is StopCause.LINGERING


def test_a_rank_that_was_preempted_waits_for_the_other_ranks() -> None:
    assert decide(observations(rank(**PREEMPTED), rank(), now=1050, sigterm_time=990)) is None
    assert decide(observations(rank(**PREEMPTED), rank(), now=1050)) is None


def test_after_sigterm_a_gang_with_an_unstarted_rank_ends_at_once() -> None:
    assert cause_of(observations(rank(), None, sigterm_time=1000)) is StopCause.NOTHING_TO_SAVE


def test_ranks_that_do_not_end_are_stopped_after_the_grace_period() -> None:
    assert decide(observations(rank(), rank(), sigterm_time=901)) is None
    assert decide(observations(rank(**PREEMPTED), rank(), sigterm_time=900)) == Stop(
        StopCause.GRACE_OVER, 1000, (1,), "100 s"
    )
