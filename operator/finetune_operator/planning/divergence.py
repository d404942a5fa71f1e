"""Selects the optimizer step that Train skips after a loss or gradient was not finite. Pure."""

from collections.abc import Iterable

from finetune_operator.api import AttemptStatus
from finetune_trainer.contract import FailureClass

REASONS = {"NonFiniteLoss", "NonFiniteGradient"}
"""Reasons of the class Numerical for which an attempt may continue without the step."""


def is_divergence(failure: str | None, reason: str | None) -> bool:
    """Whether a failure says that the loss or the gradient of an optimizer step was not finite.

    Args:
        failure: class of the failure.
        reason: reason of the failure.
    """
    return failure == FailureClass.NUMERICAL and reason in REASONS


def diverged(tries: Iterable[AttemptStatus]) -> list[AttemptStatus]:
    """The attempts in which the loss or the gradient of an optimizer step was not finite, oldest first.

    Attempts without steps do not count.
    """
    return [a for a in tries if is_divergence(a.failure, a.reason) and a.finish_cause is None]


def step_to_skip(tries: Iterable[AttemptStatus]) -> int | None:
    """The step that the next attempt skips: the step at which the first diverged attempt failed.

    Args:
        tries: the attempts of Train with the current spec digest.

    Returns:
        The number of the step; None where no attempt diverged, or where its step is unknown.
    """
    first = next(iter(diverged(tries)), None)
    return first.diverged_step if first else None
