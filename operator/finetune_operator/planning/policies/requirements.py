"""Holds or fails a job whose current spec cannot be run. Pure."""

from finetune_operator.names import State
from finetune_operator.planning.types import Decision, PlanInput
from finetune_operator.rendering.trainer_config import ResolvedRun


def check(inputs: PlanInput) -> Decision | None:
    """Holds or fails a job whose current spec cannot be run. A running attempt goes on."""
    if isinstance(inputs.resolution, ResolvedRun) or inputs.running:
        return None
    state = State.WAITING if inputs.resolution.passes else State.FAILED
    return Decision(state, inputs.resolution.reason, inputs.resolution.message)
