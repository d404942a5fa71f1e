import pytest

from bench.machine import Machine
from bench.train_throughput.cases import OURS, PLAIN
from bench.train_throughput.figures import Measured, Report, Trained, same_work, versions
from bench.train_throughput.table import rendered, strangers

MACHINE = Machine(cpu="A CPU", cores=2, memory_gib=24.0, system="Linux 6.1")


def trained(name: str, *seconds: float, loss: float = 2.0, norm: float = 1.0, torch: str = "2") -> Trained:
    return Trained(
        name=name,
        still_loss=loss,
        still_gradient_norm=norm,
        seconds=seconds,
        cpu_seconds=tuple(2 * each for each in seconds),
        steps=4,
        loss=1.5,
        versions={"torch": torch},
    )


def report(*contenders: Trained, case: str = "generation", load: float = 0.3) -> Report:
    """A case of 60 rows with 6,000 tokens."""
    measured = Measured(
        case=case, rows=60, tokens=6000, batch=16, micro_batch=8, contenders=tuple(contenders)
    )
    return Report(machine=MACHINE, began="2026-01-01T00:00:00Z", load=load, threads=2, cases=(measured,))


def cells(text: str, name: str) -> list[str]:
    """What stands in the row of that name."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_rates_are_medians_and_ratios_those_of_the_same_round() -> None:
    text = rendered(report(trained(PLAIN, 6.0, 12.0, 6.0), trained(OURS, 3.0, 4.0, 6.0)))
    assert cells(text, PLAIN)[:4] == ["10.0", "1,000", "1.00", "1.00"]
    assert cells(text, OURS)[:3] == ["15.0", "1,500", "2.00 (1.00 to 3.00)"]
    assert cells(text, OURS)[3] == "2.00 (1.00 to 3.00)"


@pytest.mark.parametrize(
    ("case", "seconds", "limit", "verdict"),
    [
        ("classification", 6.0, "1", "pass"),
        ("classification", 6.1, "1", "miss"),
        ("generation", 4.0, "1.5", "pass"),
        ("generation", 4.1, "1.5", "miss"),
    ],
)
def test_a_goal_is_met_or_missed_in_words(case: str, seconds: float, limit: str, verdict: str) -> None:
    text = rendered(report(trained(PLAIN, 6.0), trained(OURS, seconds), case=case))
    row = cells(text, f"{case}, {OURS}: times the plain Trainer")
    assert (row[0], row[2]) == (limit, verdict)


def test_a_goal_of_who_did_not_take_part_is_left_out() -> None:
    text = rendered(report(trained(PLAIN, 6.0), trained(OURS, 6.0), case="classification"))
    assert "generation" not in text


@pytest.mark.parametrize(("loss", "norm"), [(2.001, 1.0), (2.0, 1.001), (float("nan"), 1.0)])
def test_another_loss_or_gradient_is_another_work(loss: float, norm: float) -> None:
    other = trained(OURS, 1.0, loss=loss, norm=norm)
    assert not same_work(trained(PLAIN, 1.0), other)
    assert strangers(report(trained(PLAIN, 1.0), other).cases[0]) == [OURS]


def test_what_is_lost_in_float32_is_no_other_work() -> None:
    assert same_work(trained(PLAIN, 1.0), trained(OURS, 1.0, loss=2.0001, norm=0.99995))


def test_contenders_with_other_versions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="torch 3 of 'ours', elsewhere 2"):
        versions(report(trained(PLAIN, 1.0), trained(OURS, 1.0, torch="3")))


def test_a_busy_machine_is_owned_up_to() -> None:
    assert "not quiet" not in rendered(report(trained(PLAIN, 1.0)))
    assert "not quiet before: load average 3.2." in rendered(report(trained(PLAIN, 1.0), load=3.2))
