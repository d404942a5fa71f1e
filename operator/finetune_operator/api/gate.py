"""What a tuned model must reach to be published: spec.evaluation.gate."""

from typing import Annotated

from pydantic import Field
from pydantic.config import JsonDict

from finetune_operator.api.fields import rule, rules
from finetune_trainer.contract import HIGHER_IS_BETTER, Model


def gate_rules(metric: str) -> tuple[JsonDict, ...]:
    """CEL rules between the gate and the metric that decides, of which `metric` is the expression."""
    gate, lower = "self.evaluation.gate", [m for m, higher in HIGHER_IS_BETTER.items() if not higher]
    return (
        rule(
            f"!has({gate}) || ({metric} in {lower} ? !has({gate}.minimum) : !has({gate}.maximum))",
            "gate.minimum is for a primaryMetric of which more is better, gate.maximum for one of which less"
            " is better: set the other one",
            ".evaluation.gate",
        ),
        rule(
            f"!has({gate}) || !has({gate}.minimumImprovement) || {metric} in {lower}"
            f" || {gate}.minimumImprovement <= 1.0",
            "gate.minimumImprovement must be at most 1 for this primaryMetric: write 0.05 for five points of"
            " a hundred",
            ".evaluation.gate",
        ),
    )


class GateSpec(Model):
    """What the tuned model must reach on the test rows to be published: every limit that is set.

    Equal passes; a figure that is missing or not finite does not.
    """

    model_config = rules(
        rule(
            "has(self.minimum) || has(self.maximum) || has(self.minimumImprovement)",
            "set minimum (or maximum) or minimumImprovement: an empty gate stops nothing; to have none leave"
            " gate out",
        )
    )

    minimum: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least primaryMetric of the tuned model, from -1 to 1, for example 0.8; for a metric of which more is
    better."""
    maximum: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Most primaryMetric of the tuned model, from 0 to 1000000; for a metric of which less is better."""
    minimum_improvement: Annotated[float, Field(ge=-1_000_000, le=1_000_000)] | None = None
    """By how much the tuned model must surely be better than the base model in primaryMetric: the worse end
    of the 95 % interval of their difference (status.evaluation.delta, a paired bootstrap over the test rows)
    counts, not the difference itself. 0: surely not worse; -0.01: surely at most 0.01 worse."""
