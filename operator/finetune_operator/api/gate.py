"""spec.evaluation.gate: the condition for publishing the tuned model."""

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
            "use gate.minimum for metrics where higher is better, and gate.maximum where lower is better",
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
    """Limits that the tuned model must reach on the test rows to be published.

    The tuned model must reach every limit that is set. An equal value passes; a value that is missing or not
    finite does not pass.
    """

    model_config = rules(
        rule(
            "has(self.minimum) || has(self.maximum) || has(self.minimumImprovement)",
            "set at least one limit, or remove gate",
        )
    )

    minimum: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least value of primaryMetric of the tuned model, from -1 to 1, for example 0.8. Allowed for metrics of
    which a higher value is better. Default: no limit."""
    maximum: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Greatest value of primaryMetric of the tuned model, from 0 to 1000000. Allowed for metrics of which a
    lower value is better. Default: no limit."""
    minimum_improvement: Annotated[float, Field(ge=-1_000_000, le=1_000_000)] | None = None
    """Least improvement of primaryMetric from the base model to the tuned model, from -1000000 to 1000000.
    The gate compares the worse end of the 95 % interval of the improvement (status.evaluation.delta, a paired
    bootstrap over the test rows), not the improvement itself. 0 means surely not worse; -0.01 means surely at
    most 0.01 worse. Default: no limit."""
