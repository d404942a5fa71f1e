"""Decides by spec.evaluation.gate whether the tuned model is good enough to be published. Pure."""

import math
from dataclasses import dataclass

from finetune_operator.api import GateSpec
from finetune_operator.names import Reason, State
from finetune_operator.planning.stages import is_done
from finetune_operator.planning.status import Fact
from finetune_operator.planning.types import Decision, PlanInput
from finetune_trainer.contract import HIGHER_IS_BETTER, Evaluation, Interval, MetricName, Scores, Stage

ROUNDING = 1e-9
"""The tolerance for the rounding of floats: 0.85 - 0.8 is 0.04999999999999993 and passes a limit of 0.05."""


@dataclass(frozen=True)
class LimitResult:
    """Whether a figure meets one limit of a gate."""

    met: bool
    message: str


def check(inputs: PlanInput) -> Decision | None:
    """Ends a job whose tuned model does not pass its gate, even while the job is suspended."""
    verdict, training = fact(inputs), inputs.status.training
    if inputs.running or training is None or verdict is None or verdict.status is not False:
        return None
    return Decision(
        State.GATE_FAILED,
        Reason.GATE_FAILED,
        f"{verdict.message} Nothing is published; for another gate apply a job of another name. The tuned"
        " model stays until this FineTuneJob is deleted, by hand or by spec.ttl.afterFinished, at"
        f" {training.staging}",
    )


def fact(inputs: PlanInput) -> Fact | None:
    """The condition GatePassed; None on a job without a gate."""
    evaluation = inputs.job.spec.evaluation
    if evaluation.gate is None:
        return None
    if not is_done(inputs.status, Stage.TRAIN, inputs.digest):
        return Fact(None, Reason.NOT_STARTED, "The tuned model has not been measured.")
    metric = evaluation.deciding_for(inputs.job.spec.task)
    results = check_limits(
        evaluation.gate, inputs.status.evaluation, metric, higher_is_better=HIGHER_IS_BETTER[metric]
    )
    message = "; ".join(each.message for each in results)
    if all(each.met for each in results):
        return Fact(True, Reason.GATE_PASSED, f"The gate is passed: {message}.")
    return Fact(False, Reason.GATE_FAILED, f"The gate is not passed: {message}.")


def check_limits(
    gate: GateSpec, measured: Evaluation | None, metric: MetricName, *, higher_is_better: bool
) -> list[LimitResult]:
    """Compares the figures of a metric with each limit of a gate."""
    results = []
    tuned = _finite(measured.tuned if measured else None, metric)
    gain = _finite(measured.delta if measured else None, metric)
    if gate.minimum is not None:
        results.append(_check_level(metric, tuned, f"gate.minimum {gate.minimum:.15g}", gate.minimum, sign=1))
    if gate.maximum is not None:
        results.append(
            _check_level(metric, tuned, f"gate.maximum {gate.maximum:.15g}", gate.maximum, sign=-1)
        )
    if gate.minimum_improvement is not None:
        results.append(
            _check_gain(metric, gain if higher_is_better else _negate(gain), gate.minimum_improvement)
        )
    return results


def _check_level(
    metric: str, tuned: Interval | None, setting: str, limit: float, *, sign: int
) -> LimitResult:
    """Compares the figure of the tuned model with a limit; `sign` is -1 for a maximum."""
    if tuned is None:
        return LimitResult(met=False, message=f"{metric} of the tuned model is missing ({setting})")
    met = _reaches(sign * tuned.value, sign * limit)
    return LimitResult(met, f"{metric} {_format(tuned.value, limit)} {_verb(met)} {setting}")


def _check_gain(metric: str, gain: Interval | None, limit: float) -> LimitResult:
    """Compares the lower end of the improvement over the base model with a limit."""
    setting = f"gate.minimumImprovement {limit:.15g}"
    if gain is None:
        return LimitResult(
            met=False, message=f"the improvement of {metric} over the base model is missing ({setting})"
        )
    met = _reaches(gain.low, limit)
    return LimitResult(
        met,
        f"improvement over the base model {gain.value:.4g}, 95 % interval {_format(gain.low, limit)} to"
        f" {gain.high:.4g}, whose lower end {_verb(met)} {setting}",
    )


def _finite(scores: Scores | None, metric: MetricName) -> Interval | None:
    """A metric with its interval; None where the metric is missing or not finite."""
    found = scores.metrics.get(metric) if scores else None
    if found is None or not all(map(math.isfinite, (found.value, found.low, found.high))):
        return None
    return found


def _negate(delta: Interval | None) -> Interval | None:
    """The interval with the opposite sign."""
    return delta and Interval(value=0.0 - delta.value, low=0.0 - delta.high, high=0.0 - delta.low)


def _verb(met: bool) -> str:
    return "meets" if met else "misses"


def _reaches(value: float, limit: float) -> bool:
    return value >= limit or _same(value, limit)


def _same(value: float, limit: float) -> bool:
    return math.isclose(value, limit, rel_tol=ROUNDING, abs_tol=ROUNDING)


def _format(value: float, limit: float) -> str:
    """Formats a figure with at least four digits, and with enough digits to show its side of the limit."""
    if _same(value, limit):
        return f"{limit:.15g}"
    texts = (f"{value:.{digits}g}" for digits in range(4, 18))
    return next(t for t in texts if (float(t) < limit) is (value < limit) and float(t) != limit)
