from dataclasses import replace

from finetune_trainer.contract import Best
from finetune_trainer.training.curve import Curve
from finetune_trainer.training.loop import Step
from finetune_trainer.training.loop_state import BestWeights, LoopState


def step(number: int) -> Step:
    return Step(
        number=number,
        loss=1.0 / number,
        gradient_norm=1.0,
        learning_rate=0.1,
        rows=10 + number,
        tokens=100 * number,
        seconds=0.5,
    )


def trained(state: LoopState, first: int, last: int) -> LoopState:
    for number in range(first, last + 1):
        state = state.after(step(number))
    return state


def stored(state: LoopState) -> LoopState:
    """The state as an attempt reads it from the manifest of a checkpoint."""
    return LoopState.model_validate(state.model_dump(mode="json", by_alias=True))


def test_a_state_that_was_stored_goes_on_as_if_training_had_not_been_interrupted() -> None:
    start = LoopState(curve=Curve(total_steps=6))
    whole = trained(trained(start, 1, 4).evaluated(1.0, 4, 0.7), 5, 6)
    parts = stored(trained(start, 1, 2))
    parts = stored(stored(trained(parts, 3, 4)).evaluated(1.0, 4, 0.7))
    parts = trained(stored(trained(parts, 5, 5)), 6, 6)
    assert parts == whole
    assert (parts.rows, parts.tokens, parts.step_seconds) == (81, 2100, 3.0)
    assert parts.history[0].training_loss == (11 / 1 + 12 / 2 + 13 / 3 + 14 / 4) / 50


def test_the_best_weights_and_the_last_evaluation_are_stored() -> None:
    state = trained(LoopState(curve=Curve(total_steps=6)), 1, 4)
    assert not stored(state).evaluated_at(4)
    best = BestWeights(score=Best(step=4, metric=0.7), checkpoint="00000004-1-pod")
    state = stored(state.evaluated(1.0, 4, 0.7).model_copy(update={"best": best}))
    assert state.best == best
    assert state.evaluated_at(4)
    assert not state.evaluated_at(3)


def test_skipped_steps_have_no_loss_and_make_no_point_of_the_curve() -> None:
    skipped = replace(step(3), loss=0.0, gradient_norm=0.0, rows=0, tokens=0)
    state = trained(LoopState(curve=Curve(total_steps=4)), 1, 2)
    again = state.after(skipped)
    assert (again.rows, again.tokens) == (state.rows, state.tokens)
    assert [point.step for point in again.after(step(4)).curve.points] == [1, 2, 4]
    assert again.evaluated(1.0, 3, 0.7).history[0].training_loss == (11 / 1 + 12 / 2) / 23
    nothing_since = state.evaluated(0.5, 2, 0.6).after(skipped).evaluated(1.0, 3, 0.6)
    assert nothing_since.history[1].training_loss == nothing_since.history[0].training_loss
