from bench.burst.audit import Request, Requests
from bench.burst.figures import Idle, Process, Report, Run, counted
from bench.burst.sides import OURS, PEER
from bench.burst.table import rendered
from bench.machine import Machine

MACHINE = Machine(cpu="A CPU", cores=2, memory_gib=24.0, system="Linux 6.1")


def run(
    side: str,
    number: int,
    slowest: float,
    *,
    load: float = 0.4,
    idle: int | None = None,
    idle_seconds: float = 360.0,
) -> Run:
    """Two jobs alone and four at once; the slowest of these is the p99."""
    requests = Requests({Request(side, "create", "jobs"): 4, Request(side, "get", "jobs"): 2})
    return Run(
        side=side,
        round=number,
        load=load,
        alone_seconds=(0.1, 0.3),
        alone_requests=counted(requests),
        waits=(1.0, 1.0, 1.0, slowest),
        seconds=2.0,
        burst_requests=counted(requests),
        processes=(
            Process(controller="one", resident_bytes=60_000_000, peak_bytes=70_000_000, cpu_seconds=1.0),
            Process(controller="two", resident_bytes=40_000_000, peak_bytes=70_000_000, cpu_seconds=0.5),
        ),
        idle=None
        if idle is None
        else Idle(seconds=idle_seconds, requests=counted(Requests({Request(side, "list", "jobs"): idle}))),
    )


def report(*runs: Run, jobs: int = 4) -> Report:
    return Report(machine=MACHINE, began="2026-01-01T00:00:00Z", jobs=jobs, runs=runs)


def cells(text: str, name: str) -> list[str]:
    """What stands in the row of that name."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_figures_are_medians_and_tell_how_far_the_runs_lie_apart() -> None:
    text = rendered(
        report(run(OURS, 1, 2.0), run(PEER, 1, 10.0), run(OURS, 2, 3.0), run(PEER, 2, 10.0)),
    )
    assert cells(text, "p99, s") == ["2.50 (2.00 to 3.00)", "10.00"]
    assert cells(text, "our p99 over theirs, in the same round") == ["", "0.25 (0.20 to 0.30)"]
    assert cells(text, "p50, s") == ["1.00", "1.00"]
    assert cells(text, "jobs a second") == ["2", "2"]
    assert cells(text, "one job alone, s") == ["0.200", "0.200"]
    assert cells(text, "memory after the burst, MB") == ["100", "100"]
    assert cells(text, "writes for a job alone") == ["2.0", "2.0"]
    assert cells(text, "requests for a job of the burst") == ["1.5", "1.5"]


def test_a_goal_is_met_or_missed_in_words() -> None:
    name = "burst, p99 against the peer's (P1)"
    met = report(run(OURS, 1, 4.0), run(PEER, 1, 10.0))
    assert cells(rendered(met), name) == ["0.4", "0.40", "pass"]
    missed = report(run(OURS, 1, 4.1), run(PEER, 1, 10.0))
    assert cells(rendered(missed), name) == ["0.4", "0.41", "miss"]


def test_a_goal_about_another_size_or_not_measured_is_left_out() -> None:
    text = rendered(report(run(OURS, 1, 2.0), run(PEER, 1, 10.0)))
    assert "P3" not in text
    assert "leases aside" not in text
    assert "with 500 jobs" in rendered(report(run(OURS, 1, 2.0), run(PEER, 1, 10.0), jobs=500))


def test_idle_requests_are_told_by_the_minute_and_by_who_made_them() -> None:
    text = rendered(report(run(OURS, 1, 2.0, idle=9), run(PEER, 1, 10.0, idle=0)))
    assert cells(text, "requests a minute, idle") == ["1.5", "0.0"]
    assert f"| {OURS} | list jobs | 0.00 | 0.00 | 1.50 |" in text
    assert cells(text, "requests a minute with nothing to do, leases aside (P2)") == ["0", "1.50", "miss"]


def test_a_while_that_holds_no_whole_resync_says_nothing_about_idleness() -> None:
    text = rendered(report(run(OURS, 1, 2.0, idle=5, idle_seconds=10.0), run(PEER, 1, 10.0)))
    assert cells(text, "requests a minute, idle") == ["not measured", "not measured"]
    assert "leases aside" not in text
    assert f"| {OURS} | list jobs |" not in text


def test_requests_are_told_for_each_job() -> None:
    text = rendered(report(run(OURS, 1, 2.0), run(PEER, 1, 10.0), run(OURS, 2, 2.0), run(PEER, 2, 10.0)))
    assert f"| {OURS} | create jobs | 2.00 | 1.00 | 0.00 |" in text


def test_a_busy_machine_is_owned_up_to() -> None:
    assert "not quiet" not in rendered(report(run(OURS, 1, 2.0), run(PEER, 1, 10.0)))
    busy = rendered(report(run(OURS, 1, 2.0, load=3.2), run(PEER, 1, 10.0)))
    assert "not quiet before 1 of 2 runs: load average 3.2." in busy
