from dataclasses import replace

from finetune_trainer.contract import Activity, FailureClass, RankFile
from finetune_trainer.pod.watchdog import Context, Silence, Stop, Why, decide, listen


def rank(heartbeat: float = 1, step: int | None = None, **more: object) -> RankFile:
    known = RankFile(pid=1, heartbeat=heartbeat, quiet_seconds=60, activity=Activity.TRAINING, step=step)
    return known.model_copy(update=more)


def context(*files: RankFile | None, silent: tuple[float, ...] = (0, 0), **more: object) -> Context:
    known = {number: file for number, file in enumerate(files) if file}
    silences = {number: Silence(file.heartbeat, silent[number]) for number, file in known.items()}
    plain = Context(
        expected=(0, 1),
        files=known,
        silent=silences,
        gone={},
        now=1000,
        start_seconds_left=100,
        leaving_since=None,
        grace_seconds=100,
    )
    return replace(plain, **more)


def why(of: Context) -> Why | None:
    stop = decide(of)
    return stop.why if stop else None


FAILED = {"ended": 995.0, "failure": FailureClass.STORAGE}
LEFT = {"ended": 995.0, "failure": FailureClass.PREEMPTED}
DONE = {"ended": 960.0, "failure": FailureClass.SUCCESS}


def test_ranks_that_work_are_left_alone() -> None:
    assert decide(context(rank(), rank(), silent=(59, 60))) is None


def test_silence_counts_until_the_heartbeat_changes_whatever_the_clock_says() -> None:
    silent = listen({}, {0: rank(heartbeat=500)}, 0.2)
    silent = listen(silent, {0: rank(heartbeat=500)}, 0.25)
    silent = listen(silent, {0: rank(heartbeat=500)}, 0.25)
    assert silent[0].seconds == 0.5
    assert listen(silent, {0: rank(heartbeat=2)}, 0.25)[0].seconds == 0
    assert listen(silent, {0: rank(heartbeat=501)}, 0.25)[0].seconds == 0


def test_a_supervisor_that_was_frozen_itself_blames_nobody() -> None:
    silent = listen({0: Silence(500)}, {0: rank(heartbeat=500)}, 3600)
    assert silent[0].seconds == 1


def test_the_rank_furthest_behind_began_the_hang() -> None:
    stop = decide(context(rank(step=8), rank(step=7), silent=(70, 65)))
    assert stop == Stop(Why.HANG, 1000, (1, 0), "65 s while Training")


def test_each_rank_sets_its_own_patience() -> None:
    assert decide(context(rank(quiet_seconds=600.0), rank(), silent=(500, 0))) is None


def test_a_rank_that_has_ended_may_be_silent() -> None:
    assert decide(context(rank(**{**DONE, "ended": 999.0}), rank(), silent=(500, 0))) is None


def test_ranks_must_be_heard_of_before_the_deadline() -> None:
    assert decide(context(rank(), None)) is None
    assert decide(context(rank(), None, start_seconds_left=0)) == Stop(Why.NEVER_STARTED, 1000, (1,))


def test_others_may_go_on_for_a_moment_after_a_failure() -> None:
    assert decide(context(rank(**FAILED), rank())) is None
    assert why(context(rank(**FAILED), rank(), now=1006)) is Why.LINGERING


def test_others_may_go_on_for_a_moment_after_a_death() -> None:
    assert decide(context(rank(), rank(), gone={1: 995})) is None
    assert why(context(rank(), rank(), gone={1: 985})) is Why.LINGERING


def test_a_rank_that_is_done_waits_for_the_others() -> None:
    assert decide(context(rank(**DONE), rank(), gone={0: 960})) is None


def test_torchrun_gets_half_a_minute_after_the_last_success() -> None:
    assert decide(context(rank(**DONE), rank(**DONE), now=985)) is None
    assert why(context(rank(**DONE), rank(**DONE))) is Why.LINGERING


def test_a_rank_that_saved_sooner_waits_for_the_others() -> None:
    assert decide(context(rank(**LEFT), rank(), now=1050, leaving_since=990)) is None
    assert decide(context(rank(**LEFT), rank(), now=1050)) is None


def test_without_a_rank_to_save_there_is_no_waiting() -> None:
    assert why(context(rank(), None, leaving_since=1000)) is Why.NOTHING_TO_SAVE


def test_the_grace_period_ends() -> None:
    assert decide(context(rank(), rank(), leaving_since=901)) is None
    assert decide(context(rank(**LEFT), rank(), leaving_since=900)) == Stop(
        Why.GRACE_OVER, 1000, (1,), "100 s"
    )
