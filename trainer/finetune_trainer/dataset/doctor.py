"""PURE: the data doctor. Rows -> examples that can be used, and findings that say what is wrong and where."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from finetune_trainer.config import Columns
from finetune_trainer.contract import Model
from finetune_trainer.dataset.rows import BadRow, FileFaultError, Opened, Row
from finetune_trainer.tasks.text_classification import Example, example

SplitName = Literal["train", "validation", "test"]
LISTED = 100
"""Lines that a finding names; all are counted."""
_SMALL_CLASS = 10
_FEW_TEST_ROWS = 100
_IMBALANCE = 50
_MANY_CLASSES = 2
"""Fewer rows than this for each class look like labels that name the row."""


class Finding(Model):
    """One thing that the reader should know or mend."""

    level: Literal["error", "warning"]
    code: str
    """CamelCase; of an error: the reason that Prepare fails with."""
    message: str
    file: str = ""
    count: int = 0
    """How often."""
    lines: Annotated[tuple[str, ...], Field(max_length=LISTED)] = ()
    """`<line>: <what>` for the first of them."""


@dataclass
class Source:
    """What one file holds."""

    uri: str
    examples: list[Example] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    columns: Counter[str] = field(default_factory=Counter)
    """In how many rows each column occurs."""
    rows: int = 0
    fault: str = ""
    """Why the file could not be read to its end."""
    warnings: tuple[str, ...] = ()


def read_source(uri: str, opened: Opened, columns: Columns) -> Source:
    """Every row of a file as an example or a bad row; a fault of the file ends it."""
    source = Source(uri, warnings=opened.warnings)
    source.columns.update(dict.fromkeys(opened.columns, 0))
    try:
        for row in opened.rows:
            source.rows += 1
            if isinstance(row, Row):
                source.columns.update(list(row.values)[:LISTED])
                found = example(row.line, row.values, columns)
                if isinstance(found, Example):
                    source.examples.append(found)
                else:
                    source.bad.append(BadRow(row.line, found))
            else:
                source.bad.append(row)
    except FileFaultError as error:
        source.fault = str(error)
    return source


def check_source(source: Source, columns: Columns, max_bad: float) -> list[Finding]:
    """Whether a file as a whole can be used."""
    findings = [
        Finding(level="warning", code="FileNote", message=f"{source.uri}: {note}.", file=source.uri)
        for note in source.warnings
    ]
    if source.fault:
        return [*findings, _error("DataCorrupt", f"{source.uri} cannot be read: {source.fault}.", source)]
    if not source.rows:
        return [*findings, _error("NoRows", f"{source.uri} holds no rows.", source)]
    absent = [name for name in (columns.text, columns.label) if not source.columns[name]]
    if absent and source.columns:
        there = ", ".join(sorted(source.columns)[:20])
        missing = " and no ".join(map(repr, absent))
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


def without_overlap(
    rows: Sequence[Example], held_out: Iterable[Example]
) -> tuple[list[Example], list[Example]]:
    """The rows whose text does not occur among the held-out rows, and those whose text does."""
    keys = {example.key for example in held_out}
    kept: list[Example] = []
    left_out: list[Example] = []
    for row in rows:
        (left_out if row.key in keys else kept).append(row)
    return kept, left_out


def overlap(rows: Sequence[Example], uri: str, of: str, among: str) -> list[Finding]:
    """Says which rows were left out because their text is also held out."""
    if not rows:
        return []
    message = f"{len(rows):,} {of} rows were left out because their text is also among the {among} rows."
    lines = tuple(f"{row.line}: {row.text[:60]}" for row in rows[:LISTED])
    return [Finding(level="warning", code="Overlap", message=message, file=uri, count=len(rows), lines=lines)]


def duplicates(rows: Sequence[Example], uri: str) -> list[Finding]:
    """Texts that occur again, and those that do so with another label."""
    by_key: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        by_key[row.key].append(row)
    groups = [group for group in by_key.values() if len(group) > 1]
    conflicting = [group for group in groups if len({row.label for row in group}) > 1]
    again = sum(len(group) - 1 for group in groups)
    findings = []
    if again:
        lines = tuple(
            ", ".join(str(row.line) for row in group[:10]) + ": same text" for group in groups[:LISTED]
        )
        message = f"{again:,} rows of {uri} repeat a text."
        findings.append(
            Finding(level="warning", code="Duplicates", message=message, file=uri, count=again, lines=lines)
        )
    if conflicting:
        lines = tuple(
            ", ".join(f"{row.line} is {row.label[:40]!r}" for row in group[:4])
            for group in conflicting[:LISTED]
        )
        message = f"{len(conflicting):,} texts of {uri} occur with more than one label."
        findings.append(
            Finding(
                level="warning",
                code="ConflictingLabels",
                message=message,
                file=uri,
                count=len(conflicting),
                lines=lines,
            )
        )
    return findings


def check_labels(
    splits: Mapping[SplitName, Sequence[Example]], uris: Mapping[SplitName, str]
) -> list[Finding]:
    """Whether the classes can be learnt and measured."""
    counts = Counter(row.label for row in splits["train"])
    if len(counts) < 2:  # noqa: PLR2004 - a choice needs two
        only = f"only the label {next(iter(counts))!r}" if counts else "no label"
        return [
            Finding(
                level="error",
                code="SingleClass",
                message=f"The {len(splits['train']):,} training rows of {uris['train']} have {only}; "
                "at least two classes are needed.",
                file=uris["train"],
            )
        ]
    return [*_unseen(splits, uris, counts), *_spelling(counts), *_balance(counts), *_few(splits)]


def _unseen(
    splits: Mapping[SplitName, Sequence[Example]], uris: Mapping[SplitName, str], known: Counter[str]
) -> list[Finding]:
    findings = []
    for name in ("validation", "test"):
        rows = [row for row in splits[name] if row.label not in known]
        if rows:
            labels = ", ".join(repr(label) for label in sorted({row.label for row in rows})[:5])
            where = ", ".join(str(row.line) for row in rows[:5])
            findings.append(
                Finding(
                    level="error",
                    code="LabelUnseen",
                    message=f"{len(rows):,} {name} rows of {uris[name]} have labels no training row has: "
                    f"{labels} (line {where}).",
                    file=uris[name],
                    count=len(rows),
                    lines=tuple(f"{row.line}: {row.label[:60]}" for row in rows[:LISTED]),
                )
            )
    return findings


def _spelling(counts: Counter[str]) -> list[Finding]:
    alike: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        alike[" ".join(label.casefold().split())].append(label)
    return [
        _warning(
            "LabelSpelling", f"The labels {', '.join(map(repr, sorted(labels)))} differ only in spelling."
        )
        for labels in alike.values()
        if len(labels) > 1
    ]


def _balance(counts: Counter[str]) -> list[Finding]:
    findings = []
    small = sorted(label for label, count in counts.items() if count < _SMALL_CLASS)
    if small:
        named = ", ".join(f"{label[:40]!r} ({counts[label]})" for label in small[:10])
        findings.append(
            _warning(
                "SmallClass", f"{len(small)} classes have fewer than {_SMALL_CLASS} training rows: {named}."
            )
        )
    (most, high), (least, low) = counts.most_common(1)[0], min(counts.items(), key=lambda item: item[1])
    if high > _IMBALANCE * low:
        findings.append(
            _warning("Imbalance", f"The class {most[:40]!r} has {high:,} rows, {least[:40]!r} only {low:,}.")
        )
    if len(counts) * _MANY_CLASSES > counts.total():
        findings.append(
            _warning("ManyClasses", f"{len(counts):,} labels for {counts.total():,} rows: the label column?")
        )
    return findings


def _few(splits: Mapping[SplitName, Sequence[Example]]) -> list[Finding]:
    rows = len(splits["test"])
    if rows >= _FEW_TEST_ROWS:
        return []
    return [_warning("FewTestRows", f"There are only {rows} test rows: the scores will have wide intervals.")]


def _error(code: str, message: str, source: Source) -> Finding:
    return Finding(level="error", code=code, message=message, file=source.uri)


def _warning(code: str, message: str) -> Finding:
    return Finding(level="warning", code=code, message=message)


def truncation(cut_rows: int, rows: int, lost: int, max_length: int) -> list[Finding]:
    """Says how much of the training rows is cut off."""
    if not cut_rows:
        return []
    return [
        _warning(
            "Truncated",
            f"{cut_rows:,} of {rows:,} training rows are longer than {max_length} tokens; "
            f"{lost:,} tokens are cut off.",
        )
    ]
