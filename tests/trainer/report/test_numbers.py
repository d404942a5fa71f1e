import pytest

from finetune_trainer.contract import Interval
from finetune_trainer.report import numbers


@pytest.mark.parametrize(
    ("value", "signed", "shown"),
    [
        (0.81234, False, "0.8123"),
        (0.81234, True, "+0.8123"),
        (-0.5, False, "\N{MINUS SIGN}0.5000"),
        (-0.00001, True, "0.0000"),
        (0.00001, True, "0.0000"),
        (12.3456, False, "12.35"),
        (-1234.5, True, "\N{MINUS SIGN}1,234.50"),
    ],
)
def test_a_metric_has_the_digits_that_matter_and_a_sign_only_where_it_says_something(
    value: float, signed: bool, shown: str
) -> None:
    assert numbers.format_metric(value, signed=signed) == shown


def test_both_ends_of_an_interval_are_told() -> None:
    gain = Interval(value=0.1, low=-0.05, high=0.25)
    assert numbers.format_interval(gain, signed=True) == "\N{MINUS SIGN}0.0500 to +0.2500"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (3e-4, "3e\N{MINUS SIGN}4"),
        (1234.0, "1,234"),
        (0.25, "0.25"),
        (-2.5, "\N{MINUS SIGN}2.5"),
        (2.5e6, "2.5e6"),
    ],
)
def test_ticks_are_short(value: float, shown: str) -> None:
    assert numbers.format_short(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (59.0, "59 s"), (59.7, "1 min 0 s"), (670, "11 min 10 s"), (7322, "2 h 2 min")],
)
def test_durations_are_told_in_two_units(seconds: float, shown: str) -> None:
    assert numbers.format_duration(seconds) == shown


def test_sizes_and_counts() -> None:
    assert [numbers.format_size(n) for n in (999, 701_312, 12_300_000_000)] == [
        "999 B",
        "701.3 kB",
        "12.3 GB",
    ]
    assert (numbers.format_plural(1, "row"), numbers.format_plural(2000, "class", "classes")) == (
        "1 row",
        "2,000 classes",
    )
