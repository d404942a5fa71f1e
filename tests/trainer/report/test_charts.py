import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.contract import Interval
from finetune_trainer.report.charts import (
    Axis,
    Mark,
    build_tick_labels,
    plot_curve,
    plot_histogram,
    plot_intervals,
)
from tests.trainer.report.reading import drawn, read, texts

TEMPLATE = "report/templates/charts.html.j2"

NUMBERS = st.floats(-1e12, 1e12, allow_subnormal=False)


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_an_axis_holds_all_values_between_few_ticks(values: list[float]) -> None:
    axis = Axis.around(values)
    slack = 1e-6 * max(1, abs(axis.low), abs(axis.high))
    assert axis.low <= min(values) + slack
    assert axis.high >= max(values) - slack
    assert axis.low < axis.high
    assert list(axis.ticks) == sorted(set(axis.ticks))
    assert 2 <= len(axis.ticks) <= 7


def test_ticks_are_round_numbers() -> None:
    assert Axis.around([0.0, 0.37]).ticks == (0.0, 0.1, 0.2, 0.3, 0.4)
    assert Axis.around([-0.028, 0.024]).ticks == (-0.04, -0.02, 0.0, 0.02, 0.04)
    assert Axis.around([7.0]).share(7.0) == pytest.approx(0.5, abs=0.2)


def test_a_curve_begins_and_ends_where_it_should() -> None:
    chart = plot_curve("Loss", [(10, 2.0), (20, 1.0), (40, 0.0)], described="from 2 to 0", marked=20)
    markup = drawn(TEMPLATE, "plot", chart)
    elements = read(markup)
    (polyline,) = (e for e in elements if e.name == "polyline")
    assert polyline.attributes["points"] == "250.0,0.0 500.0,500.0 1000.0,1000.0"
    (kept,) = (e for e in elements if e.attributes.get("class") == "marked")
    assert kept.attributes["x1"] == "50.00%"
    assert texts(markup, "text")[-1] == "step 40"
    assert any(e.attributes.get("aria-label") == "from 2 to 0" for e in elements)


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 0.5), (2, 0.5)], [(5, 0.0)]])
def test_one_point_or_a_level_curve_can_be_drawn(points: list[tuple[float, float]]) -> None:
    assert "nan" not in drawn(TEMPLATE, "plot", plot_curve("Flat", points, described="level", dots=True))


def test_bins_beyond_the_limit_are_marked_and_the_limit_stands_within_its_bin() -> None:
    chart = plot_histogram("Lengths", [(0, 5), (8, 10), (16, 3), (32, 1)], 24, described="...")
    elements = read(drawn(TEMPLATE, "plot", chart))
    bars = [e for e in elements if e.name == "rect"]
    assert [bar.attributes.get("class") for bar in bars] == [None, None, None, "cut"]
    (limit,) = (e for e in elements if e.attributes.get("class") == "marked")
    assert limit.attributes["x1"] == "62.50%"


def test_an_interval_is_drawn_from_end_to_end_with_zero_marked() -> None:
    axis = Axis.around([-0.1, 0.1])
    mark = Mark("better", "difference", Interval(value=0.05, low=0.0, high=0.1))
    elements = read(drawn(TEMPLATE, "intervals", plot_intervals(axis, [mark], described="told", lines=3)))
    (zero,) = (e for e in elements if e.attributes.get("class") == "zero")
    assert zero.attributes["x1"] == "50.00%"
    whisker = [e for e in elements if e.name == "line"][-1]
    assert (whisker.attributes["x1"], whisker.attributes["x2"]) == ("50.00%", "100.00%")
    (dot,) = (e for e in elements if e.name == "circle")
    assert dot.attributes["cx"] == "75.00%"
    assert texts(drawn(TEMPLATE, "ticks", build_tick_labels(axis)), "text") == [
        "\N{MINUS SIGN}0.1",
        "\N{MINUS SIGN}0.05",
        "0",
        "0.05",
        "0.1",
    ]
