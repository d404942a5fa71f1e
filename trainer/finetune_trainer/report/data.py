"""PURE: builds the section `Data` of the report page: findings, rows and lengths."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from finetune_trainer.data.findings import Finding
from finetune_trainer.report import numbers
from finetune_trainer.report.charts import Plot, plot_histogram
from finetune_trainer.report.rendering import TEMPLATES, Section

_SPLITS = ("train", "validation", "test")
_CLASSES = 20


class _StoredDocument(BaseModel):
    """A stored document, which another release can have written, so that unknown fields are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class _File(_StoredDocument):
    uri: str
    digest: str = ""
    size: int = 0


class _Lengths(_StoredDocument):
    histogram: dict[str, int] = {}
    percentiles: dict[str, int] = {}
    tokens: int = 0
    rows_cut: int = 0
    tokens_cut: int = 0


class _Account(_StoredDocument):
    read: int = 0
    left_out: dict[str, int] = {}
    repeated: int = 0
    columns: int = 0
    columns_used: int = 0
    classes: int = 0
    classes_learnt: int = 0
    bad_row_reasons: dict[str, int] = {}


class DataReport(_StoredDocument):
    """The data report."""

    findings: tuple[Finding, ...] = ()
    files: dict[str, tuple[_File, ...]] = {}
    rows: dict[str, int] = {}
    labels: dict[str, dict[str, int]] = {}
    max_length: int = 0
    lengths: dict[str, _Lengths] = {}
    account: _Account | None = None


@dataclass(frozen=True)
class ClassRows:
    """The number of rows of a class in each split."""

    name: str
    train: int
    validation: int
    test: int
    share: float
    """Training rows relative to the class with most training rows."""


def section(document: JsonValue) -> Section:
    """Builds the section from the data report; a missing or invalid report gives a section that says so."""
    try:
        report = DataReport.model_validate(document)
    except ValidationError:
        report = None
    splits = [name for name in _SPLITS if report and name in report.rows]
    values = {
        "report": report,
        "lengths": report and _plot_lengths(report),
        "splits": splits,
        "rows": report and _table_rows(report, splits),
        "classes": report and _list_classes(report),
        "files": report and [(name, file) for name, files in report.files.items() for file in files],
    }
    return Section("data", "Data", f"{TEMPLATES}/sections.html.j2", values)


def _plot_lengths(report: DataReport) -> Plot | None:
    train = report.lengths.get("train")
    counts = _list_bins(train.histogram) if train else []
    if not train or not counts:
        return None
    total = max(sum(rows for _, rows in counts), 1)
    described = (
        f"Training rows by length in tokens; {train.rows_cut:,} of {total:,} are longer than "
        f"{report.max_length:,} and were cut."
    )
    title = f"Training rows by length in tokens; cut at {report.max_length:,}"
    return plot_histogram(title, counts, report.max_length, described=described)


def _list_bins(counts: dict[str, int]) -> list[tuple[int, int]]:
    """Returns (smallest length, rows) of each bin up to the last bin that is not empty."""
    bins = [(int(name.rstrip("+")), rows) for name, rows in counts.items() if name.rstrip("+").isdigit()]
    last = max((number for number, (_, rows) in enumerate(bins) if rows), default=-1)
    return bins[: last + 1]


def _table_rows(report: DataReport, splits: list[str]) -> list[tuple[str, ...]]:
    """Returns the lines of the table `Rows and tokens of each split`: a name and a value for each split."""
    lengths_of_splits = [report.lengths.get(name, _Lengths()) for name in splits]
    return [
        ("rows", *(numbers.format_count(report.rows[name]) for name in splits)),
        ("tokens", *(numbers.format_count(lengths.tokens) for lengths in lengths_of_splits)),
        *(
            (
                f"{label} length",
                *(numbers.format_count(lengths.percentiles.get(key, 0)) for lengths in lengths_of_splits),
            )
            for label, key in (("median", "50"), ("95th percentile of", "95"), ("largest", "100"))
        ),
        (
            f"rows cut at {report.max_length:,} tokens",
            *(numbers.format_count(lengths.rows_cut) for lengths in lengths_of_splits),
        ),
        (
            "tokens cut off",
            *(_format_share(lengths.tokens_cut, lengths.tokens) for lengths in lengths_of_splits),
        ),
    ]


def _format_share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if part and whole else numbers.format_count(part)


def _list_classes(report: DataReport) -> list[ClassRows]:
    """Returns the first classes of the report, which sorts classes by the number of training rows."""
    shown = list(report.labels.items())[:_CLASSES]
    most = max((counts.get("train", 0) for _, counts in shown), default=0) or 1
    return [
        ClassRows(
            name,
            train=counts.get("train", 0),
            validation=counts.get("validation", 0),
            test=counts.get("test", 0),
            share=counts.get("train", 0) / most,
        )
        for name, counts in shown
    ]
