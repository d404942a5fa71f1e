"""The policies: each vetoes or ends a job. One file a policy, `check(inputs) -> Decision | None`. Pure."""

from finetune_operator.planning.policies import (
    deadline,
    gate,
    requirements,
    restart,
    stopping,
    supersede,
    suspend,
)

CHAIN = (
    supersede.check,
    gate.check,
    suspend.check,
    deadline.check,
    requirements.check,
    restart.check,
    stopping.check,
)
"""Asked in this order; the first policy that returns a decision decides."""
