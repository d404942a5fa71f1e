from itertools import pairwise

import pytest

from finetune_trainer.training.curve import MOST_POINTS, Curve
from finetune_trainer.training.loop import Step


def step(number: int, **values: float) -> Step:
    usual = {"loss": 1.0, "gradient_norm": 1.0, "learning_rate": 0.1, "rows": 8, "tokens": 80, "seconds": 2.0}
    return Step(number=number, **{**usual, **values})


def curve(total: int, **spike: float) -> Curve:
    drawn = Curve(total_steps=total)
    for number in range(1, total + 1):
        drawn = drawn.after(step(number, **spike) if number == 500 else step(number))
    return drawn


@pytest.mark.parametrize("total", [1, 2, 199, 200, 201, 1000, 1399])
def test_a_curve_has_a_limited_number_of_points_and_ends_at_the_last_step(total: int) -> None:
    points = curve(total).points
    assert min(total, MOST_POINTS) / 2 <= len(points) <= MOST_POINTS
    assert points[-1].step == total
    gaps = {after.step - before.step for before, after in pairwise(points[:-1])}
    assert len(gaps) <= 1, "evenly spaced"


def test_a_point_has_the_mean_loss_of_the_rows_of_its_steps() -> None:
    drawn = (
        Curve(total_steps=400)
        .after(step(1, loss=3.0, rows=3))
        .after(step(2, loss=1.0, rows=1, learning_rate=0.05))
    )
    (point,) = drawn.points
    assert (point.step, point.loss, point.learning_rate) == (2, 2.5, 0.05)
    assert point.rows_per_second == 1.0


def test_a_peak_of_the_gradient_norm_between_two_points_is_in_the_curve() -> None:
    points = curve(1000, loss=100.0, gradient_norm=50.0).points
    assert max(point.gradient_norm for point in points) == 50.0
    assert max(point.loss for point in points) > 20


def test_steps_without_duration_raise_no_error_and_steps_without_rows_make_no_point() -> None:
    (point,) = Curve(total_steps=1).after(step(1, seconds=0.0)).points
    assert point.rows_per_second > 0
    assert Curve(total_steps=1).after(step(1, rows=0, seconds=0.0)).points == ()
