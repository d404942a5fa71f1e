"""PURE: the data doctor. Rows -> examples that can be used, and findings that say what is wrong and where."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from finetune_trainer.dataset.example import Example
from finetune_trainer.dataset.findings import LISTED, Finding, warning
from finetune_trainer.dataset.rows import BadRow, FileFaultError, Opened, Row

_FEW_TEST_ROWS = 100
Reader = Callable[[int, Mapping[str, Any]], Any]
"""Line and values of a row -> an example, or the reason why it is none."""
Kind = TypeVar("Kind", bound=Example)
Absent = Callable[[Iterable[str]], tuple[str, ...]]
"""Columns of a file -> those that it lacks."""


@dataclass
class Source:
    """What one file holds."""

    uri: str
    examples: list[Any] = field(default_factory=list)
    """Of the task's own kind, each an Example."""
    bad: list[BadRow] = field(default_factory=list)
    columns: Counter[str] = field(default_factory=Counter)
    """In how many rows each column occurs."""
    rows: int = 0
    fault: str = ""
    """Why the file could not be read to its end."""
    warnings: tuple[str, ...] = ()


def read_source(uri: str, opened: Opened, read: Reader) -> Source:
    """Every row of a file as an example or a bad row; a fault of the file ends it."""
    source = Source(uri, warnings=opened.warnings)
    source.columns.update(dict.fromkeys(opened.columns, 0))
    try:
        for row in opened.rows:
            source.rows += 1
            if isinstance(row, Row):
                source.columns.update(list(row.values)[:LISTED])
                found = read(row.line, row.values)
                if isinstance(found, str):
                    source.bad.append(BadRow(row.line, found))
                else:
                    source.examples.append(found)
            else:
                source.bad.append(row)
    except FileFaultError as error:
        source.fault = str(error)
    return source


def check_source(source: Source, absent: Absent, max_bad: float) -> list[Finding]:
    """Whether a file as a whole can be used."""
    findings = [
        Finding(level="warning", code="FileNote", message=f"{source.uri}: {note}.", file=source.uri)
        for note in source.warnings
    ]
    if source.fault:
        return [*findings, _error("DataCorrupt", f"{source.uri} cannot be read: {source.fault}.", source)]
    if not source.rows:
        return [*findings, _error("NoRows", f"{source.uri} holds no rows.", source)]
    lacking = absent([name for name, count in source.columns.items() if count])
    if lacking and source.columns:
        there = ", ".join(sorted(source.columns)[:20])
        missing = " and no ".join(map(repr, lacking))
        message = f"dataset.columns: {source.uri} has no column {missing}; it has {there}."
        return [*findings, _error("ColumnsMissing", message, source)]
    if source.bad:
        findings.append(_bad_rows(source, max_bad))
    return findings


def _bad_rows(source: Source, max_bad: float) -> Finding:
    share, first = len(source.bad) / source.rows, source.bad[0]
    message = (
        f"{len(source.bad):,} of {source.rows:,} rows of {source.uri} cannot be used; "
        f"the first: line {first.line} {first.reason}."
    )
    lines = tuple(f"{bad.line}: {bad.reason}" for bad in source.bad[:LISTED])
    if share <= max_bad:
        return Finding(
            level="warning",
            code="BadRows",
            message=message,
            file=source.uri,
            count=len(source.bad),
            lines=lines,
        )
    mostly_encoding = sum(bad.encoding for bad in source.bad) * 2 > len(source.bad)
    return Finding(
        level="error",
        code="DataCorrupt" if mostly_encoding else "TooManyBadRows",
        message=f"{message} dataset.maxBadRowFraction allows {max_bad:.2%}.",
        file=source.uri,
        count=len(source.bad),
        lines=lines,
    )


def without_overlap(rows: Sequence[Kind], held_out: Iterable[Example]) -> tuple[list[Kind], list[Kind]]:
    """The rows whose text does not occur among the held-out rows, and those whose text does."""
    keys = {example.key for example in held_out}
    kept: list[Kind] = []
    left_out: list[Kind] = []
    for row in rows:
        (left_out if row.key in keys else kept).append(row)
    return kept, left_out


def overlap(rows: Sequence[Example], uri: str, of: str, among: str) -> list[Finding]:
    """Says which rows were left out because their text is also held out."""
    if not rows:
        return []
    message = f"{len(rows):,} {of} rows were left out because their text is also among the {among} rows."
    lines = tuple(f"{row.line}: {row.excerpt}" for row in rows[:LISTED])
    return [Finding(level="warning", code="Overlap", message=message, file=uri, count=len(rows), lines=lines)]


def duplicates(rows: Sequence[Example], uri: str) -> list[Finding]:
    """Rows that repeat another one."""
    groups = [group for group in grouped(rows, lambda row: row.identity) if len(group) > 1]
    again = sum(len(group) - 1 for group in groups)
    if not again:
        return []
    lines = tuple(", ".join(str(row.line) for row in group[:10]) + ": same text" for group in groups[:LISTED])
    message = f"{again:,} rows of {uri} repeat a text."
    return [Finding(level="warning", code="Duplicates", message=message, file=uri, count=again, lines=lines)]


def grouped(rows: Iterable[Kind], of: Callable[[Kind], str]) -> list[list[Kind]]:
    """The rows that have the same text under `of`, together, in the order of their first."""
    groups: dict[str, list[Kind]] = defaultdict(list)
    for row in rows:
        groups[of(row)].append(row)
    return list(groups.values())


def few_test_rows(rows: int) -> list[Finding]:
    """Says when the scores will be vague."""
    if rows >= _FEW_TEST_ROWS:
        return []
    return [warning("FewTestRows", f"There are only {rows} test rows: the scores will have wide intervals.")]


def truncation(cut_rows: int, rows: int, lost: int, max_length: int) -> list[Finding]:
    """Says how much of the training rows is cut off."""
    if not cut_rows:
        return []
    return [
        warning(
            "Truncated",
            f"{cut_rows:,} of {rows:,} training rows are longer than {max_length} tokens; "
            f"{lost:,} tokens are cut off.",
        )
    ]


def _error(code: str, message: str, source: Source) -> Finding:
    return Finding(level="error", code=code, message=message, file=source.uri)
