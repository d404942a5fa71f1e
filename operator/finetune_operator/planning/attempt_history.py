"""Keeps status.attempts bounded: attempts that no longer matter are only counted. Pure."""

from collections import Counter

from finetune_operator.api import AttemptStatus, DroppedAttempts, FineTuneJobStatus
from finetune_operator.planning.restart_budget import failures_since_progress, furthest_step, outage_starts
from finetune_operator.planning.stages import STAGES, stage_of
from finetune_trainer.contract import FailureClass

LONGEST = 60
"""Attempts in a status; the CustomResourceDefinition allows 64. The limit of settings.max_restarts keeps
those that are needed below it."""
RECENT = 8
"""The newest attempts, which people look at, and which the back-off is computed from."""


def shorten(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """The status without its oldest attempts, where it has too many."""
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
            "attempts_dropped": DroppedAttempts(total=before.total + len(dropped), by_cause=dict(reasons)),
        }
    )


def _needed(attempts: list[AttemptStatus]) -> list[AttemptStatus]:
    """The attempts that something is still decided from.

    The newest of each stage (numbers are never used twice), the successes that stages rest on, and what the
    restart budget of the current stage is computed from.
    """
    needed = attempts[-RECENT:]
    for stage in STAGES:
        own = [a for a in attempts if stage_of(a) is stage]
        needed += own[-1:] + [a for a in own if a.outcome == "Succeeded"][-1:]
    last = attempts[-1]
    tries = [a for a in attempts if (a.stage, a.spec_digest) == (last.stage, last.spec_digest)]
    furthest = furthest_step(tries)
    needed += [a for a in tries if furthest and a.step == furthest][:1]
    needed += [a for a in tries if a.failure == FailureClass.OUT_OF_MEMORY]
    return needed + failures_since_progress(tries) + outage_starts(tries)
