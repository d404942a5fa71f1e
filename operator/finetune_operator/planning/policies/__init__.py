"""The policies, one for each module: `check(inputs) -> Decision | None` holds or ends a job. Pure."""

from finetune_operator.planning.policies import (
    deadline,
    finish,
    gate,
    limits,
    requirements,
    restart,
    shrink,
    stopping,
    supersede,
    suspend,
)

CHAIN = (
    supersede.check,
    gate.check,
    suspend.check,
    limits.check,
    shrink.check,
    finish.check,
    deadline.check,
    requirements.check,
    restart.check,
    stopping.check,
)
"""The policies in their order; the first policy that returns a decision decides."""
