"""The section of the report about the data: findings, rows, lengths. Pure."""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from finetune_trainer.data.findings import Finding
from finetune_trainer.report import numbers
from finetune_trainer.report.charts import histogram
from finetune_trainer.report.markup import (
    Html,
    Section,
    bar_cell,
    bar_head,
    code,
    foreign,
    joined,
    paragraph,
    table,
    tag,
    text,
)

_SPLITS = ("train", "validation", "test")
_CLASSES, _FINDINGS, _LINES, _LETTERS, _FILES = 20, 12, 8, 120, 20


class _Told(BaseModel):
    """Read as far as it is understood: an earlier release may have written it."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class _File(_Told):
    uri: str
    digest: str = ""
    size: int = 0


class _Lengths(_Told):
    histogram: dict[str, int] = {}
    percentiles: dict[str, int] = {}
    tokens: int = 0
    rows_cut: int = 0
    tokens_cut: int = 0


class _Account(_Told):
    read: int = 0
    left_out: dict[str, int] = {}
    repeated: int = 0
    columns: int = 0
    columns_used: int = 0
    classes: int = 0
    classes_learnt: int = 0
    bad_row_reasons: dict[str, int] = {}


class DataReport(_Told):
    """The data report."""

    findings: tuple[Finding, ...] = ()
    files: dict[str, tuple[_File, ...]] = {}
    rows: dict[str, int] = {}
    labels: dict[str, dict[str, int]] = {}
    max_length: int = 0
    lengths: dict[str, _Lengths] = {}
    account: _Account | None = None


def section(document: JsonValue) -> Section:
    """Rows, lengths and findings; a report that is gone or cannot be read is told as that."""
    try:
        report = DataReport.model_validate(document)
    except ValidationError:
        return Section("data", "Data", (paragraph("The data report of this run no longer exists."),))
    return Section("data", "Data", tuple(_parts(report)))


def _parts(report: DataReport) -> Iterator[Html]:
    yield tag("h3", "Findings")
    yield from _findings(report.findings)
    if report.rows:
        yield tag("h3", "Rows and lengths")
        yield tag("div", *_lengths(report), _splits(report), class_="charts")
    if report.account:
        yield _account(report, report.account)
    if report.labels:
        yield _classes(report)
    if report.files:
        yield _files(report)


def _findings(findings: tuple[Finding, ...]) -> Iterator[Html]:
    if not findings:
        yield paragraph("The data check found nothing to correct.")
        return
    yield tag("ul", *map(_finding, findings[:_FINDINGS]), class_="findings")
    if len(findings) > _FINDINGS:
        yield paragraph(f"{len(findings) - _FINDINGS:,} more findings are in report.json.")


def _finding(finding: Finding) -> Html:
    lines = [tag("li", foreign(line, _LETTERS)) for line in finding.lines[:_LINES]]
    left = finding.count - len(lines)
    if lines and left > 0:
        lines.append(tag("li", f"and {left:,} more", class_="more"))
    return tag(
        "li",
        paragraph(tag("strong", finding.code, class_=finding.level), " ", foreign(finding.message, 400)),
        tag("ul", *lines) if lines else "",
    )


def _lengths(report: DataReport) -> Iterator[Html]:
    train = report.lengths.get("train")
    counts = _bins(train.histogram) if train else []
    if not train or not counts:
        return
    total = max(sum(rows for _, rows in counts), 1)
    described = (
        f"Training rows by length in tokens; {train.rows_cut:,} of {total:,} are longer than "
        f"{report.max_length:,} and were cut."
    )
    title = f"Training rows by length in tokens; cut at {report.max_length:,}"
    yield histogram(title, counts, report.max_length, described=described)


def _bins(counts: dict[str, int]) -> list[tuple[int, int]]:
    """(smallest length, rows) up to the last bin that is not empty."""
    bins = [(int(name.rstrip("+")), rows) for name, rows in counts.items() if name.rstrip("+").isdigit()]
    last = max((number for number, (_, rows) in enumerate(bins) if rows), default=-1)
    return bins[: last + 1]


def _splits(report: DataReport) -> Html:
    names = [name for name in _SPLITS if name in report.rows]
    told = [report.lengths.get(name, _Lengths()) for name in names]
    lines: list[tuple[str, ...]] = [
        ("rows", *(numbers.count(report.rows[name]) for name in names)),
        ("tokens", *(numbers.count(lengths.tokens) for lengths in told)),
        *(
            (f"{label} length", *(numbers.count(lengths.percentiles.get(key, 0)) for lengths in told))
            for label, key in (("median", "50"), ("95th percentile of", "95"), ("largest", "100"))
        ),
        (f"rows cut at {report.max_length:,} tokens", *(numbers.count(lengths.rows_cut) for lengths in told)),
        ("tokens cut off", *(_share(lengths.tokens_cut, lengths.tokens) for lengths in told)),
    ]
    return table("Rows and tokens of each split", ("", *names), lines)


def _account(report: DataReport, account: _Account) -> Html:
    """Every row of the files: the first line is the sum of those below, down to the rows left out."""
    lines: list[tuple[Html | str, ...]] = [
        ("rows in all files", numbers.count(account.read)),
        *((f"{name} rows", numbers.count(report.rows[name])) for name in _SPLITS if name in report.rows),
        *((joined(["left out: ", code(why)]), numbers.count(rows)) for why, rows in account.left_out.items()),
        *(
            (joined(["of these bad rows: ", foreign(why, _LETTERS)]), numbers.count(rows))
            for why, rows in list(account.bad_row_reasons.items())[:_LINES]
        ),
        ("repeated rows, kept", numbers.count(account.repeated)),
        ("columns used, of all columns", f"{account.columns_used:,} of {account.columns:,}"),
    ]
    if account.classes:
        lines.append(("classes learnt, of all classes", f"{account.classes_learnt:,} of {account.classes:,}"))
    return table("What became of every row", ("", "rows"), lines)


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if part and whole else numbers.count(part)


def _classes(report: DataReport) -> Html:
    shown = list(report.labels.items())[:_CLASSES]
    most = max((counts.get("train", 0) for _, counts in shown), default=0) or 1
    lines = [
        (
            foreign(label),
            bar_cell(numbers.count(counts.get("train", 0)), counts.get("train", 0) / most),
            *(numbers.count(counts.get(name, 0)) for name in _SPLITS[1:]),
        )
        for label, counts in shown
    ]
    left = len(report.labels) - len(shown)
    caption = "Rows of each class" + (f": the {len(shown)} largest of {len(report.labels):,}" if left else "")
    return table(caption, ("class", bar_head(_SPLITS[0]), *_SPLITS[1:]), lines)


def _files(report: DataReport) -> Html:
    every = [(name, file) for name, files in report.files.items() for file in files]
    lines = [
        (text(name), foreign(file.uri, 200), numbers.size(file.size), code(file.digest))
        for name, file in every[:_FILES]
    ]
    left = len(every) - len(lines)
    more = joined([f" The {left:,} others are in report.json."]) if left else ""
    return joined([table("Files", ("split", "file", "size", "SHA-256"), lines, kind="words"), more])
