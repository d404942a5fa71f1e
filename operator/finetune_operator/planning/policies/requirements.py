"""A job that cannot be run as it stands waits or fails. Pure."""

from finetune_operator.names import State
from finetune_operator.planning.types import Decision, PlanInput
from finetune_operator.rendering.trainer_config import ResolvedRun


def check(inputs: PlanInput) -> Decision | None:
    """Ends or holds a job that cannot be run as it stands; what already runs is left alone."""
    if isinstance(inputs.resolution, ResolvedRun) or inputs.running:
        return None
    state = State.WAITING if inputs.resolution.passes else State.FAILED
    return Decision(state, inputs.resolution.reason, inputs.resolution.message)
