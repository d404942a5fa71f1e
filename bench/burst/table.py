"""PURE the tables that people read, in Markdown: the figures, the goals, and who asked for what."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from bench.burst import figures
from bench.burst.audit import Request, Requests, writes
from bench.burst.figures import Idle, Report, Run
from bench.burst.sides import OURS, PEER
from bench.machine import QUIET_LOAD
from finetune_operator.settings import Settings

MB = 1_000_000
WHOLE_RESYNC_SECONDS: float = Settings.model_fields["resync_seconds"].default


@dataclass(frozen=True)
class Goal:
    """A figure that our side is held to.

    Attributes:
        name: what the figure is.
        limit: the most it may be.
        jobs: the size of burst that the goal is about; None: any.
        reached: the figure of a report, None where it was not measured.
    """

    name: str
    limit: float
    jobs: int | None
    reached: Callable[[Report], float | None]


def _ratio(report: Report) -> float:
    return median(figures.ratios(report, OURS, PEER))


def _memory(report: Report) -> float:
    return figures.middle(figures.of_side(report, OURS), figures.memory) / MB


def _writes_to_start(report: Report) -> float:
    return figures.middle(figures.of_side(report, OURS), writes_to_start)


def _idle(report: Report) -> float | None:
    idle = [a_minute for run in figures.of_side(report, OURS) if (a_minute := idle_requests(run)) is not None]
    return max(idle, default=None)


GOALS = (
    Goal("burst, p99 against the peer's (P1)", 0.4, None, _ratio),
    Goal("writes to get one job started (P2)", 4, None, _writes_to_start),
    Goal("requests a minute with nothing to do, leases aside (P2)", 0, None, _idle),
    Goal("memory with 500 jobs, MB (P3)", 110, 500, _memory),
    Goal("memory with 2,000 jobs, MB (P3)", 200, 2000, _memory),
)


def rendered(report: Report) -> str:
    """The whole report."""
    parts = [
        f"{report.jobs} jobs at once, {report.rounds} runs of each side, in turn on one API server.",
        f"{report.machine}.",
        _lines(("", *report.sides), _figures(report)),
        _lines(("goal", "at most", "reached", ""), _verdicts(report)),
        *(_requests(report, side) for side in report.sides),
    ]
    if busy := [f"{run.load:.1f}" for run in report.runs if run.load >= QUIET_LOAD]:
        quiet = f"The machine was not quiet before {len(busy)} of {len(report.runs)} runs"
        parts.insert(1, f"{quiet}: load average {', '.join(busy)}.")
    return "\n\n".join(parts)


def writes_to_start(run: Run) -> float:
    """Writes for one job that comes alone."""
    return writes(figures.uncounted(run.alone_requests)) / len(run.alone_seconds)


def idle_requests(run: Run) -> float | None:
    """Requests a minute while nothing happens; None where that was not looked at for long enough to tell."""
    if run.idle is None or not _is_whole(run.idle):
        return None
    return figures.uncounted(run.idle.requests).total() * 60 / run.idle.seconds


def _is_whole(idle: Idle) -> bool:
    return idle.seconds >= WHOLE_RESYNC_SECONDS


def _figures(report: Report) -> Iterable[tuple[str, ...]]:
    def row(name: str, figure: Callable[[Run], float], form: str) -> tuple[str, ...]:
        return name, *(
            _spread([figure(run) for run in figures.of_side(report, side)], form) for side in report.sides
        )

    yield row("one job alone, s", lambda run: median(run.alone_seconds), ".3f")
    yield row("p50, s", lambda run: figures.percentile(run.waits, 0.5), ".2f")
    yield row("p99, s", figures.p99, ".2f")
    yield (
        "our p99 over theirs, in the same round",
        *(
            "" if side == OURS else _spread(figures.ratios(report, OURS, side), ".2f")
            for side in report.sides
        ),
    )
    yield row("max, s", lambda run: max(run.waits), ".2f")
    yield row("jobs a second", lambda run: report.jobs / run.seconds, ".0f")
    yield row("writes for a job alone", writes_to_start, ".1f")
    yield row("writes for a job of the burst", lambda run: _burst_writes(run) / report.jobs, ".1f")
    yield row("requests for a job of the burst", lambda run: _burst(run).total() / report.jobs, ".1f")
    yield row("memory after the burst, MB", lambda run: figures.memory(run) / MB, ".0f")
    yield row("CPU seconds in the burst", lambda run: sum(p.cpu_seconds for p in run.processes), ".1f")
    yield "requests a minute, idle", *(_idle_cell(report, side) for side in report.sides)


def _verdicts(report: Report) -> Iterable[tuple[str, ...]]:
    for goal in GOALS:
        reached = goal.reached(report)
        if reached is None or goal.jobs not in {None, report.jobs}:
            continue
        yield goal.name, f"{goal.limit:g}", f"{reached:.2f}", "pass" if reached <= goal.limit else "miss"


def _requests(report: Report, side: str) -> str:
    """Requests by actor, verb and resource: for one job alone, for one of the burst, idle a minute."""
    runs = figures.of_side(report, side)
    columns = [
        _each([(figures.uncounted(r.alone_requests), len(r.alone_seconds)) for r in runs]),
        _each([(_burst(r), report.jobs) for r in runs]),
        _each(
            [
                (figures.uncounted(r.idle.requests), r.idle.seconds / 60)
                for r in runs
                if r.idle and _is_whole(r.idle)
            ]
        ),
    ]
    rows = [
        (request.actor, f"{request.verb} {request.resource}", *(f"{c.get(request, 0):.2f}" for c in columns))
        for request in sorted({request for column in columns for request in column})
    ]
    return _lines((f"requests of {side}", "", "a job alone", "a job of the burst", "a minute, idle"), rows)


def _each(counts: list[tuple[Requests, float]]) -> dict[Request, float]:
    """Requests divided by what they were for, over several runs."""
    share = sum(number for _, number in counts)
    total = sum((requests for requests, _ in counts), start=Requests())
    return {request: number / share for request, number in total.items()}


def _burst(run: Run) -> Requests:
    return figures.uncounted(run.burst_requests)


def _burst_writes(run: Run) -> int:
    return writes(_burst(run))


def _idle_cell(report: Report, side: str) -> str:
    idle = [a_minute for run in figures.of_side(report, side) if (a_minute := idle_requests(run)) is not None]
    return _spread(idle, ".1f") if idle else "not measured"


def _spread(values: list[float], form: str) -> str:
    """The median, and between what it lies where that shows."""
    low, high = format(min(values), form), format(max(values), form)
    middle = format(median(values), form)
    return middle if low == high else f"{middle} ({low} to {high})"


def _lines(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
