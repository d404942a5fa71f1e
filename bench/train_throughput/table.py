"""PURE the tables that people read, in Markdown."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from bench.machine import QUIET_LOAD
from bench.train_throughput import figures
from bench.train_throughput.cases import CLASSIFICATION, GENERATION, OURS, PLAIN
from bench.train_throughput.figures import Measured, Report, Trained


@dataclass(frozen=True)
class Goal:
    """How much faster than the plain Trainer a contender has to be.

    Attributes:
        case: name of the case.
        contender: whose goal it is.
        limit: the least ratio.
    """

    case: str
    contender: str
    limit: float


GOALS = (
    Goal(CLASSIFICATION.name, OURS, 1.0),
    Goal(GENERATION.name, OURS, 1.5),
)


def rendered(report: Report) -> str:
    """The whole report."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(figures.versions(report).items()))
    parts = [
        f"{report.machine}; {report.threads} threads each. {versions}.",
        *(_case(case) for case in report.cases),
        _lines(("goal", "at least", "reached", ""), _verdicts(report)),
    ]
    if report.load >= QUIET_LOAD:
        parts.insert(1, f"The machine was not quiet before: load average {report.load:.1f}.")
    return "\n\n".join(parts)


def strangers(case: Measured) -> list[str]:
    """Those that do not compute what the plain Trainer computes: their rates mean nothing."""
    plain = _plain(case)
    return [trained.name for trained in case.contenders if not figures.same_work(trained, plain)]


def _case(case: Measured) -> str:
    plain = _plain(case)
    rounds = len(plain.seconds)
    head = (
        f"{case.case}: {case.rows} rows with {case.tokens:,} tokens, {case.batch} rows a step"
        f" ({case.micro_batch} a pass), {rounds} rounds"
    )
    columns = (
        "samples/s",
        "tokens/s",
        "to Trainer, padded",
        "the same by CPU time",
        "loss, gradient norm of one step",
        "mean loss",
    )
    return _lines((head, *columns), (_row(case, trained, plain) for trained in case.contenders))


def _row(case: Measured, trained: Trained, plain: Trained) -> tuple[str, ...]:
    return (
        trained.name,
        f"{figures.rate(case.rows, trained):.1f}",
        f"{figures.rate(case.tokens, trained):,.0f}",
        _spread(figures.ratios(trained, plain)),
        _spread(figures.cpu_ratios(trained, plain)),
        f"{trained.still_loss:.5f}, {trained.still_gradient_norm:.5f}",
        f"{trained.loss:.3f}",
    )


def _verdicts(report: Report) -> Iterable[tuple[str, ...]]:
    cases = {case.case: case for case in report.cases}
    for goal in GOALS:
        case = cases.get(goal.case)
        trained = case.named(goal.contender) if case else None
        if case is None or trained is None:
            continue
        reached = median(figures.ratios(trained, _plain(case)))
        verdict = "pass" if reached >= goal.limit else "miss"
        yield (
            f"{goal.case}, {goal.contender}: times the plain Trainer",
            f"{goal.limit:g}",
            f"{reached:.2f}",
            verdict,
        )


def _plain(case: Measured) -> Trained:
    plain = case.named(PLAIN)
    if plain is None:
        raise ValueError(f"{case.case} was not trained by {PLAIN!r}")
    return plain


def _spread(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    middle = f"{median(values):.2f}"
    return middle if low == high else f"{middle} ({low} to {high})"


def _lines(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
