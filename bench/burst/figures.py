"""PURE what is measured, and what is made of it: percentiles, figures of one run, figures of all runs."""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from pydantic import BaseModel

from bench.burst.audit import Request, Requests
from bench.machine import Machine


class Counted(BaseModel, frozen=True):
    """One kind of request and how often it was made."""

    actor: str
    verb: str
    resource: str
    number: int


class Process(BaseModel, frozen=True):
    """What a controller took of the machine."""

    controller: str
    resident_bytes: int
    """After the burst, its jobs still there."""
    peak_bytes: int
    cpu_seconds: float
    """From the first job sent to the last first Job."""


class Idle(BaseModel, frozen=True):
    """A while in which nothing happens, the jobs of the burst still there."""

    seconds: float
    requests: tuple[Counted, ...]


class Run(BaseModel, frozen=True):
    """One burst of one side."""

    side: str
    round: int
    load: float
    """Load average of the machine before it."""
    alone_seconds: tuple[float, ...]
    """From sending a job to its first Job, for jobs one after the other."""
    alone_requests: tuple[Counted, ...]
    waits: tuple[float, ...]
    """Seconds from sending a job to its first Job, for the jobs of the burst."""
    seconds: float
    """From the first job sent to the last first Job."""
    burst_requests: tuple[Counted, ...]
    processes: tuple[Process, ...]
    idle: Idle | None = None


class Report(BaseModel, frozen=True):
    """A whole benchmark."""

    machine: Machine
    began: str
    jobs: int
    runs: tuple[Run, ...]

    @property
    def sides(self) -> list[str]:
        """Names of those that were measured, in their order."""
        return list(dict.fromkeys(run.side for run in self.runs))

    @property
    def rounds(self) -> int:
        """Runs of each side."""
        return max(run.round for run in self.runs)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values, no percentile")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def counted(requests: Requests) -> tuple[Counted, ...]:
    """Requests as they are reported, in a fixed order."""
    return tuple(
        Counted(actor=request.actor, verb=request.verb, resource=request.resource, number=number)
        for request, number in sorted(requests.items())
    )


def uncounted(reported: Iterable[Counted]) -> Requests:
    """Requests as they are counted."""
    return Requests({Request(c.actor, c.verb, c.resource): c.number for c in reported})


def of_side(report: Report, side: str) -> list[Run]:
    """The runs of one side, in their order."""
    return [run for run in report.runs if run.side == side]


def middle(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    """The median of a figure over runs."""
    return median(figure(run) for run in runs)


def p99(run: Run) -> float:
    """What P1 compares."""
    return percentile(run.waits, 0.99)


def memory(run: Run) -> int:
    """Bytes of all controllers of a side."""
    return sum(process.resident_bytes for process in run.processes)


def ratios(report: Report, ours: str, peer: str) -> list[float]:
    """Our p99 over the peer's, round by round."""
    pairs = zip(of_side(report, ours), of_side(report, peer), strict=True)
    return [p99(mine) / p99(theirs) for mine, theirs in pairs]
