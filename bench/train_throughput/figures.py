"""PURE what is measured, and what is made of it: rates, ratios, whether two did the same work."""

import math
from statistics import median

from pydantic import BaseModel

from bench.machine import Machine

SAME = 1e-4
"""So much, of the larger of both, may loss and gradient norm of the same step differ."""


class Trained(BaseModel, frozen=True):
    """One contender."""

    name: str
    still_loss: float
    """Of one step over the same rows with the same weights, nothing dropped out."""
    still_gradient_norm: float
    seconds: tuple[float, ...]
    """Of each round: every row once."""
    cpu_seconds: tuple[float, ...]
    """Of the process, on all cores together: neighbours on the machine change it less."""
    steps: int
    """In a round."""
    loss: float
    """Mean over all steps, those of the warm-up among them."""
    versions: dict[str, str]


class Measured(BaseModel, frozen=True):
    """One case."""

    case: str
    rows: int
    tokens: int
    """Of these rows, without padding."""
    batch: int
    micro_batch: int
    contenders: tuple[Trained, ...]

    def named(self, name: str) -> Trained | None:
        """A contender, where it took part."""
        return next((trained for trained in self.contenders if trained.name == name), None)


class Report(BaseModel, frozen=True):
    """A whole benchmark."""

    machine: Machine
    began: str
    load: float
    """Load average of the machine before it."""
    threads: int
    cases: tuple[Measured, ...]


def ratios(one: Trained, other: Trained) -> list[float]:
    """How much faster one was than the other, round by round."""
    return [theirs / mine for mine, theirs in zip(one.seconds, other.seconds, strict=True)]


def cpu_ratios(one: Trained, other: Trained) -> list[float]:
    """How much less CPU time one took than the other, round by round."""
    return [theirs / mine for mine, theirs in zip(one.cpu_seconds, other.cpu_seconds, strict=True)]


def rate(count: int, trained: Trained) -> float:
    """So many of something in a round, a second: the median over the rounds."""
    return count / median(trained.seconds)


def same_work(one: Trained, other: Trained) -> bool:
    """Whether both compute the same loss and gradient."""
    return math.isclose(one.still_loss, other.still_loss, rel_tol=SAME) and math.isclose(
        one.still_gradient_norm, other.still_gradient_norm, rel_tol=SAME
    )


def versions(report: Report) -> dict[str, str]:
    """Of all libraries.

    Raises:
        ValueError: two contenders ran with different versions of one.
    """
    found: dict[str, str] = {}
    for case in report.cases:
        for trained in case.contenders:
            for name, version in trained.versions.items():
                if found.setdefault(name, version) != version:
                    raise ValueError(f"{name} {version} of {trained.name!r}, elsewhere {found[name]}")
    return found
