"""Bounds the length of status.attempts: the status counts the attempts that planning drops. Pure."""

from collections import Counter

from finetune_operator.api import AttemptStatus, DroppedAttempts, FineTuneJobStatus
from finetune_operator.planning.divergence import diverged
from finetune_operator.planning.restart_budget import (
    failures_since_progress,
    furthest_step,
    lasting_failures,
    outage_starts,
)
from finetune_operator.planning.stages import STAGES, stage_of
from finetune_operator.planning.usage import add_dropped
from finetune_trainer.contract import FailureClass

LONGEST = 60
"""The most attempts in a status; the CustomResourceDefinition allows 64. The limit of maxRestarts in the
settings and in the spec keeps the number of needed attempts below this number."""
RECENT = 8
"""The number of newest attempts that stay: users read them, and the back-off is computed from them."""


def shorten(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """Drops the oldest attempts of a status that has too many."""
    excess = len(status.attempts) - LONGEST
    if excess <= 0:
        return status
    needed = {a.job for a in _needed(status.attempts)}
    dropped = [a for a in status.attempts if a.job not in needed][:excess]
    gone = {a.job for a in dropped}
    before = status.attempts_dropped or DroppedAttempts(total=0)
    reasons = Counter(before.by_cause) + Counter(a.failure or a.outcome for a in dropped)
    return status.model_copy(
        update={
            "attempts": [a for a in status.attempts if a.job not in gone],
            "attempts_dropped": DroppedAttempts(
                total=before.total + len(dropped), by_cause=dict(reasons), **add_dropped(before, dropped)
            ),
        }
    )


def _needed(attempts: list[AttemptStatus]) -> list[AttemptStatus]:
    """The attempts that planning still reads.

    They are the newest attempt of each stage (numbers are never used twice), the last success of each stage,
    and the attempts that the restart budget of the current stage is computed from.
    """
    needed = attempts[-RECENT:]
    for stage in STAGES:
        own = [a for a in attempts if stage_of(a) is stage]
        needed += own[-1:] + [a for a in own if a.outcome == "Succeeded"][-1:]
    last = attempts[-1]
    tries = [a for a in attempts if (a.stage, a.spec_digest) == (last.stage, last.spec_digest)]
    with_steps = [a for a in tries if a.finish_cause is None]
    without_steps = [a for a in tries if a.finish_cause is not None]
    return needed + _needed_for_budget(with_steps) + _needed_for_budget(without_steps)


def _needed_for_budget(tries: list[AttemptStatus]) -> list[AttemptStatus]:
    """The attempts from which the restart budget of some attempts of a stage is computed."""
    needed = tries[-1:]
    furthest = furthest_step(tries)
    needed += [a for a in tries if furthest and a.step == furthest][:1]
    needed += [a for a in tries if a.failure == FailureClass.OUT_OF_MEMORY]
    needed += lasting_failures(tries)[-2:] + diverged(tries)
    return needed + failures_since_progress(tries) + outage_starts(tries)
