"""Figures that pass or fail a gate, and the messages about them."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api import GateSpec
from finetune_operator.planning.policies import gate
from finetune_operator.planning.policies.gate import check_limits
from finetune_trainer.contract import Evaluation, Interval, Scores
from tests.operator import scenes

SHARES = st.floats(0, 1, width=32)
FIGURES = st.floats(-1, 1, width=32).filter(lambda figure: str(figure) != "-0.0")


def measured(tuned: Any = 0.8, delta: Any = (0.05, 0.1, 0.15)) -> Evaluation:
    """An evaluation with one metric; None leaves the figure out."""

    def scores(low: float, value: float, high: float) -> Scores:
        interval = Interval.model_construct(value=value, low=low, high=high)
        return Scores.model_construct(primary=value, metrics={"accuracy": interval})

    return Evaluation.model_construct(
        primary_metric="accuracy",
        rows=400,
        majority=scores(0.1, 0.1, 0.1),
        baseline=scores(0.7, 0.7, 0.7),
        tuned=None if tuned is None else scores(tuned, tuned, tuned),
        delta=None if delta is None else scores(*delta),
    )


def passes(limits: GateSpec, evaluation: Evaluation | None, *, higher_is_better: bool = True) -> bool:
    held = check_limits(limits, evaluation, "accuracy", higher_is_better=higher_is_better)
    assert held
    return all(each.met for each in held)


def message_of(limits: GateSpec, evaluation: Evaluation, *, higher_is_better: bool = True) -> str:
    return "; ".join(
        h.message for h in check_limits(limits, evaluation, "accuracy", higher_is_better=higher_is_better)
    )


@given(SHARES, SHARES)
def test_minimum_is_a_floor_and_maximum_a_ceiling_for_the_tuned_model(value: float, limit: float) -> None:
    near = math.isclose(value, limit, rel_tol=gate.ROUNDING, abs_tol=gate.ROUNDING)

    assert passes(GateSpec(minimum=limit), measured(value)) is (value >= limit or near)
    assert passes(GateSpec(maximum=limit), measured(value)) is (value <= limit or near)


@given(SHARES)
def test_equal_passes(value: float) -> None:
    evaluation = measured(value, (value, value, value))

    assert passes(GateSpec(minimum=value, minimum_improvement=value), evaluation)
    assert passes(GateSpec(maximum=value, minimum_improvement=-value), evaluation, higher_is_better=False)


@pytest.mark.parametrize(("value", "limit"), [(0.85 - 0.8, 0.05), (0.1 + 0.2, 0.3), (1 / 3 * 3 - 1, 0.0)])
def test_a_figure_equal_to_the_limit_passes_despite_float_rounding(value: float, limit: float) -> None:
    evaluation = measured(value, (value, value, value))

    assert passes(GateSpec(minimum=limit, maximum=limit, minimum_improvement=limit), evaluation)
    assert f"accuracy {limit:g} meets gate.minimum {limit:g}" in message_of(
        GateSpec(minimum=limit), evaluation
    )


@given(st.tuples(FIGURES, FIGURES, FIGURES).map(sorted), FIGURES)
def test_the_worse_end_of_the_interval_decides_about_the_improvement(
    delta: list[float], limit: float
) -> None:
    low, _, high = delta
    limits = GateSpec(minimum_improvement=limit)

    def near(one: float) -> bool:
        return math.isclose(one, limit, rel_tol=gate.ROUNDING, abs_tol=gate.ROUNDING)

    assert passes(limits, measured(delta=delta)) is (low >= limit or near(low))
    assert passes(limits, measured(delta=delta), higher_is_better=False) is (-high >= limit or near(-high))


@given(st.tuples(FIGURES, FIGURES, FIGURES).map(sorted), FIGURES)
def test_a_metric_and_its_negative_get_the_same_verdict(delta: list[float], limit: float) -> None:
    limits = GateSpec(minimum_improvement=limit)
    turned = [0.0 - figure for figure in reversed(delta)]

    assert check_limits(limits, measured(delta=delta), "accuracy", higher_is_better=True) == check_limits(
        limits, measured(delta=turned), "accuracy", higher_is_better=False
    )


@given(FIGURES, st.tuples(FIGURES, FIGURES, FIGURES).map(sorted), FIGURES, FIGURES)
def test_every_limit_that_is_set_must_be_met(
    value: float, delta: list[float], minimum: float, improvement: float
) -> None:
    evaluation = measured(value, delta)
    both = passes(GateSpec(minimum=minimum, minimum_improvement=improvement), evaluation)

    assert both is (
        passes(GateSpec(minimum=minimum), evaluation)
        and passes(GateSpec(minimum_improvement=improvement), evaluation)
    )


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("limits", [{"minimum": -1}, {"maximum": 1}, {"minimum_improvement": -1}], ids=str)
def test_a_figure_that_is_not_finite_passes_no_limit(wrong: float, limits: dict[str, float]) -> None:
    for higher in (True, False):
        evaluation = measured(wrong, (wrong, wrong, wrong))
        assert not passes(GateSpec(**limits), evaluation, higher_is_better=higher)
        assert "is missing" in message_of(GateSpec(**limits), evaluation, higher_is_better=higher)


@pytest.mark.parametrize("limits", [{"minimum": -1}, {"maximum": 1}, {"minimum_improvement": -1}], ids=str)
def test_a_missing_figure_passes_no_limit(limits: dict[str, float]) -> None:
    assert not passes(GateSpec(**limits), measured(tuned=None, delta=None))
    assert not passes(GateSpec(**limits), None)
    assert not check_limits(GateSpec(**limits), measured(), "mcc", higher_is_better=True)[0].met


def test_the_message_has_the_figures() -> None:
    assert message_of(GateSpec(minimum=0.9, minimum_improvement=0.05), measured()) == (
        "accuracy 0.8 misses gate.minimum 0.9; improvement over the base model 0.1, 95 % interval 0.05 to"
        " 0.15, whose lower end meets gate.minimumImprovement 0.05"
    )
    assert message_of(
        GateSpec(maximum=2.5, minimum_improvement=0.5),
        measured(3.25, (-1, -0.6, -0.2)),
        higher_is_better=False,
    ) == (
        "accuracy 3.25 misses gate.maximum 2.5; improvement over the base model 0.6, 95 % interval 0.2 to 1,"
        " whose lower end misses gate.minimumImprovement 0.5"
    )


@given(FIGURES, FIGURES)
def test_the_figure_shown_is_on_its_side_of_the_limit(value: float, limit: float) -> None:
    shown = float(message_of(GateSpec(minimum=limit), measured(value)).split()[1])

    assert (shown >= limit) is passes(GateSpec(minimum=limit), measured(value)) or math.isclose(
        shown, limit, rel_tol=1e-14
    )


def test_a_figure_just_below_the_limit_is_not_shown_as_the_limit() -> None:
    assert message_of(GateSpec(minimum=0.8), measured(0.79999)) == "accuracy 0.79999 misses gate.minimum 0.8"
    assert (
        message_of(GateSpec(minimum=0.79998), measured(0.79996))
        == "accuracy 0.79996 misses gate.minimum 0.79998"
    )


def test_the_gate_may_be_changed_until_training_starts_and_asks_for_another_run() -> None:
    plain = scenes.job_of()
    gated = scenes.job_of({"spec": {"evaluation": {"gate": {"minimum": 0.8}}}})

    one, other = (scenes.asked_of(job, scenes.settings()) for job in (plain, gated))
    assert one.run.digest() == other.run.digest()  # the prepared data and the trained model stay valid
    assert one.spec_digest != other.spec_digest
