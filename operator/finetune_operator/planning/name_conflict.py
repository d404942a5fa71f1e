"""Holds a job while an object of somebody else has a name that the run needs. Pure."""

from finetune_operator.names import Reason, State
from finetune_operator.objects import Manifest
from finetune_operator.planning.types import Decision, PlanInput


def check(inputs: PlanInput, wanted: tuple[Manifest, ...]) -> Decision | None:
    """The decision to wait while a name in `wanted` belongs to an object outside the run."""
    for manifest in wanted:
        kind, meta = manifest["kind"], manifest["metadata"]
        if (kind, meta["name"]) in inputs.observed.foreign:
            return Decision(
                State.WAITING,
                Reason.NAME_CONFLICT,
                f"Waiting for the name {meta['name']}: there is a {kind} {meta['namespace']}/{meta['name']}"
                " that is not of this job. Delete or rename it, the job goes on by itself.",
                requeue_after=30,
            )
    return None
