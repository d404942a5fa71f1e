import pytest

from finetune_trainer.contract import Progress, Stage
from finetune_trainer.training.meter import Meter


def run(meter: Meter, steps: range, seconds: float, begin: float = 100.0) -> Meter:
    for step in steps:
        meter = meter.after(step, now=begin + step * seconds, samples=step * 8, tokens=step * 100)
    return meter


def test_before_the_first_step_only_percent_and_total_steps_are_known() -> None:
    assert Meter(40, first_percent=10).fields() == {"percent": 10, "total_steps": 40}


def test_one_step_has_no_rate() -> None:
    assert run(Meter(40), range(1, 2), 0.5).fields() == {"percent": 2.5, "step": 1, "total_steps": 40}


def test_percent_refers_to_the_whole_stage() -> None:
    meter = Meter(40, first_percent=10, last_percent=90)
    assert run(meter, range(1, 21), 0.5).fields()["percent"] == pytest.approx(50)
    assert run(meter, range(1, 41), 0.5).fields()["percent"] == pytest.approx(90)


def test_percent_does_not_exceed_last_percent_after_extra_steps() -> None:
    fields = run(Meter(4), range(1, 9), 1).fields()
    assert (fields["percent"], fields["eta_seconds"]) == (100, 0)


def test_rates_and_remaining_time_of_equal_steps() -> None:
    fields = run(Meter(40), range(1, 21), 0.5).fields()
    assert fields["samples_per_second"] == pytest.approx(16)
    assert fields["tokens_per_second"] == pytest.approx(200)
    assert fields["eta_seconds"] == pytest.approx(10)


def test_the_utilisation_is_the_share_of_the_peak() -> None:
    assert run(Meter(40, peak_tokens_per_second=500), range(1, 21), 0.5).fields()["mfu"] == pytest.approx(0.4)
    assert "mfu" not in run(Meter(40), range(1, 21), 0.5).fields()


def test_throughput_covers_32_steps_and_remaining_time_covers_all_steps() -> None:
    slow = run(Meter(200), range(1, 101), 2)
    fast = run(slow, range(101, 141), 1, begin=200)
    fields = fast.fields()
    assert fields["samples_per_second"] == pytest.approx(8)
    assert fields["eta_seconds"] == pytest.approx(60 * (340 - 102) / 139)


def test_without_elapsed_time_there_is_no_rate() -> None:
    assert "samples_per_second" not in run(Meter(40), range(1, 5), 0).fields()


def test_every_field_is_a_field_of_the_progress_document() -> None:
    fields = run(Meter(40), range(1, 21), 0.5).fields()
    assert Progress(stage=Stage.TRAIN, attempt=1, **fields).step == 20
