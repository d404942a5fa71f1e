"""Derives the optimizer steps of an attempt: reached, resumed from, saved, lost, and lost in place. Pure.

The steps come from the messages of the pods and from the progress. A tenant controls both, so a step is at
most the total of the run.
"""

from collections.abc import Iterator
from contextlib import suppress

from finetune_operator.api import AttemptStatus, ProgressStatus
from finetune_operator.objects import label
from finetune_operator.planning.stages import since_missing_checkpoint, stage_of
from finetune_operator.planning.termination_messages import Expected, Unreadable, message_of
from finetune_operator.planning.types import PlanInput
from finetune_trainer.contract import InPlaceRestarts, Progress, Stage, TerminationMessage

Steps = dict[str, int | None]
"""Fields of an AttemptStatus."""


def resumed_from(inputs: PlanInput, attempt: AttemptStatus) -> int | None:
    """The step of the checkpoint from which an attempt of Train resumed; None: not known to have resumed."""
    if stage_of(attempt) is not Stage.TRAIN:
        return None
    reported = [message.resumed_from_step for message in _messages(inputs, attempt)]
    if news := _news(inputs, attempt):
        reported.append(news.resumed_from_step)
    return _latest(inputs, attempt.resumed_from_step, *reported)


def steps_of_success(inputs: PlanInput, attempt: AttemptStatus) -> Steps:
    """The steps of the checkpoints of a successful attempt: resumed from, and saved.

    For an attempt without steps, also the step at which training ended.
    """
    if stage_of(attempt) is not Stage.TRAIN:
        return {}
    steps = {
        "resumed_from_step": resumed_from(inputs, attempt),
        "checkpoint_step": _latest(inputs, attempt.checkpoint_step, _saved(inputs, attempt)),
    }
    if attempt.finish_cause is None:
        return steps
    return {**steps, "step": _latest(inputs, *(message.step for message in _messages(inputs, attempt)))}


def steps_of_failure(inputs: PlanInput, attempt: AttemptStatus) -> Steps:
    """The steps of an unsuccessful attempt: reached, resumed from, saved, and lost."""
    steps = steps_of_success(inputs, attempt)
    reported = [message.step for message in _messages(inputs, attempt)]
    shown = [progress.step for progress in _progress(inputs, attempt)]
    reached = _latest(inputs, attempt.step, _saved(inputs, attempt), *reported, *shown)
    if stage_of(attempt) is Stage.TRAIN:
        saved = steps["checkpoint_step"]
        # A step after the reached step is that of an earlier attempt, from before the reached step was known.
        if saved is None or (reached is not None and saved > reached):
            steps["checkpoint_step"] = _saved_earlier(inputs, attempt, reached)
        if reached is not None:
            steps["lost_steps"] = reached - (steps["checkpoint_step"] or 0)
    return {**steps, "step": reached}


def restarts_in_place(inputs: PlanInput, attempt: AttemptStatus) -> InPlaceRestarts | None:
    """The restarts in place of an attempt of Train; None where no pod reported a restart."""
    if stage_of(attempt) is not Stage.TRAIN:
        return None
    reported = [attempt.in_place_restarts, *(m.in_place_restarts for m in _messages(inputs, attempt))]
    if news := _news(inputs, attempt):
        reported.append(news.in_place_restarts)
    newest = max((r for r in reported if r), key=lambda restarts: restarts.count, default=None)
    lost = _latest(inputs, newest.lost_steps if newest else None)
    return newest and newest.model_copy(update={"lost_steps": lost or 0})


def _saved_earlier(inputs: PlanInput, attempt: AttemptStatus, reached: int | None) -> int | None:
    """The step of the newest checkpoint of earlier attempts.

    A checkpoint after the step that this attempt reached is damaged or deleted: otherwise, the attempt would
    have resumed from that checkpoint.
    """
    tries = [
        a
        for a in inputs.status.attempts
        if (a.stage, a.spec_digest) == (attempt.stage, attempt.spec_digest) and a.number < attempt.number
    ]
    earlier = [a.checkpoint_step for a in since_missing_checkpoint(tries)]
    return _latest(inputs, *(s for s in earlier if s is not None and (reached is None or s <= reached)))


def _saved(inputs: PlanInput, attempt: AttemptStatus) -> int | None:
    """The step of the newest checkpoint that the attempt itself is known to have saved or resumed from."""
    if stage_of(attempt) is not Stage.TRAIN:
        return None
    saved = [message.checkpoint.step for message in _messages(inputs, attempt) if message.checkpoint]
    shown = [progress.checkpoint_step for progress in _progress(inputs, attempt)]
    return _latest(inputs, *saved, *shown)


def _messages(inputs: PlanInput, attempt: AttemptStatus) -> Iterator[TerminationMessage]:
    """The termination messages of the pods of an attempt, also of pods whose Job is deleted."""
    expected = Expected(stage_of(attempt), attempt.number, attempt.config_digest, run=None)
    for pod in inputs.observed.pods:
        if attempt.job_uid and label(pod, "batch.kubernetes.io/controller-uid") == attempt.job_uid:
            with suppress(Unreadable):
                yield message_of(pod, expected)


def _progress(inputs: PlanInput, attempt: AttemptStatus) -> Iterator[Progress | ProgressStatus]:
    """The stored progress, which is that of the newest attempt, and the newest progress."""
    if inputs.status.progress:
        yield inputs.status.progress
    if news := _news(inputs, attempt):
        yield news


def _news(inputs: PlanInput, attempt: AttemptStatus) -> Progress | None:
    news = inputs.observed.progress
    return news if news and news.stage is stage_of(attempt) and news.attempt == attempt.number else None


def _latest(inputs: PlanInput, *steps: int | None) -> int | None:
    """The latest of the known steps; None where no step, or not the total of the run, is known."""
    known, chosen = [step for step in steps if step is not None], inputs.status.chosen
    return min(max(known), chosen.total_steps) if known and chosen else None
