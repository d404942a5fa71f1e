"""PURE: the data check. Rows -> examples that can be used, and findings that say what is wrong and where."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from finetune_trainer.contract import printable
from finetune_trainer.data.example import Example
from finetune_trainer.data.findings import LISTED, Finding, warning
from finetune_trainer.data.lines import FileSpan, Line
from finetune_trainer.data.readers import BadRow, FileFaultError, Opened, Row
from finetune_trainer.data.sameness import Sameness, whole

_FEW_TEST_ROWS = 100
_COLUMN = 60
"""Letters of a column's name that are shown."""
Reader = Callable[[int, Mapping[str, Any]], Any]
"""Line and values of a row -> an example, or the reason why it is none."""
Kind = TypeVar("Kind", bound=Example)
Absent = Callable[[Iterable[str]], tuple[str, ...]]
"""Columns of a file -> those that it lacks."""


@dataclass(frozen=True)
class Unread:
    """A file before it is read."""

    uri: str
    name: str
    """What tells it apart from the other files of its split."""
    open: Callable[[], Opened]
    """May raise FileFaultError."""


@dataclass
class FileFacts:
    """What one file as a whole is like."""

    uri: str
    name: str
    columns: Counter[str] = field(default_factory=Counter)
    """In how many rows each column occurs."""
    header_is_a_line: bool = False
    """See Opened."""
    dialect: str = ""
    """See Opened."""
    hint: str = ""
    """See Opened."""
    rows: int = 0
    fault: str = ""
    """Why the file could not be read to its end."""
    warnings: tuple[str, ...] = ()


@dataclass
class Source:
    """What the files of one split hold."""

    home: str
    """What findings call it: the URI of its only file, or the split."""
    examples: list[Any] = field(default_factory=list)
    """Of the task's own kind, each an Example."""
    bad: list[BadRow] = field(default_factory=list)
    files: list[FileFacts] = field(default_factory=list)
    spans: list[FileSpan] = field(default_factory=list)
    """Which rows each of the files holds."""

    @property
    def rows(self) -> int:
        """Rows of all files, bad ones included."""
        return sum(file.rows for file in self.files)


def read_source(home: str, files: Sequence[Unread], read: Reader) -> Source:
    """Every row of some files as an example or a bad row; a fault of a file ends that file."""
    source = Source(home)
    last = 0
    for unread in files:
        file, before = FileFacts(unread.uri, unread.name), last
        source.files.append(file)
        source.spans.append(FileSpan(file=unread.name, before=before))
        try:
            opened = unread.open()
            file.warnings = opened.warnings
            file.columns.update(dict.fromkeys(opened.columns, 0))
            file.header_is_a_line = opened.header_is_a_line
            file.dialect, file.hint = opened.dialect, opened.hint
            for row in opened.rows:
                last = before + row.line
                _take(source, file, row, Line.of(last, source.spans) if len(files) > 1 else last, read)
            file.warnings += opened.after()
        except FileFaultError as error:
            file.fault = str(error)
    return source


def _take(source: Source, file: FileFacts, row: Row | BadRow, line: int, read: Reader) -> None:
    file.rows += 1
    if isinstance(row, BadRow):
        source.bad.append(replace(row, line=line))
        return
    file.columns.update(list(row.values)[:LISTED])
    found = read(line, row.values)
    if isinstance(found, str):
        source.bad.append(BadRow(line, found))
    else:
        source.examples.append(found)


def check_source(source: Source, absent: Absent, max_bad: float) -> list[Finding]:
    """Whether the files of a split can be used."""
    findings = _notes(source)
    faulty = [(file, _Fault(f"cannot be read: {file.fault}")) for file in source.files if file.fault]
    if faulty:
        return [*findings, _files_error("DataCorrupt", source, faulty)]
    if not source.rows:
        return [*findings, _error("NoRows", f"{source.home} holds no rows.", source)]
    lacking = [(file, what) for file in source.files if (what := _lacks(file, absent))]
    if lacking:
        return [*findings, _files_error("ColumnsMissing", source, lacking, "dataset.columns: ")]
    if source.bad:
        findings.append(_bad_rows(source, max_bad))
    return findings


def _notes(source: Source) -> list[Finding]:
    """What may be worth knowing of the files; the same of many files is said once."""
    noted: dict[str, list[FileFacts]] = defaultdict(list)
    for file in source.files:
        empty = ("it holds no rows",) if source.rows and not file.rows and not file.fault else ()
        for note in (*file.warnings, *empty):
            noted[note].append(file)
    return [
        Finding(
            level="warning",
            code="FileNote",
            message=f"{files[0].uri}: {note}.{_likewise(source, len(files) - 1)}",
            file=source.home,
            count=len(files),
            lines=tuple(file.name for file in files[:LISTED] if len(source.files) > 1),
        )
        for note, files in noted.items()
    ]


@dataclass(frozen=True)
class _Fault:
    """What is wrong with a file as a whole."""

    what: str
    """For the message: quotes no value of a row."""
    more: str = ""
    """For the report alone."""


def _lacks(file: FileFacts, absent: Absent) -> _Fault | None:
    """Which columns a file has not; None if it has all that are needed."""
    # A header names the columns also where no row can be used; a key of JSON occurs in rows only.
    lacking = absent([name for name, count in file.columns.items() if count or file.header_is_a_line])
    if not lacking or not file.columns or not file.rows:
        return None
    missing = f"has no column {' and no '.join(map(repr, lacking))}"
    known = [name for name in file.columns if _is_schema(file, name, absent)]
    if known:
        return _Fault(f"{missing}; it has {_listed(known)}")
    there = f"; it has {_listed(file.columns)}"
    if file.header_is_a_line:
        read_as = f". The file is read as {file.dialect}" if file.dialect else ""
        hint = f"; {file.hint.removesuffix('.')}" if file.hint else ""
        return _Fault(f"{missing} in its header{read_as}{hint}", there)
    return _Fault(f"{missing}; no other is in half of its rows", there)


def _is_schema(file: FileFacts, name: str, absent: Absent) -> bool:
    """Whether the name of a column is surely one, and no value of a row in its place.

    The first line of a CSV file is a header where it names a column that is asked for, else it may be a row;
    the keys of JSON rows are a schema where most rows have them.
    """
    if file.header_is_a_line:
        return absent(list(file.columns)) != absent([])
    return file.columns[name] * 2 >= file.rows or file.columns[name] == 0


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(printable(name)[:_COLUMN] or "''" for name in sorted(columns)[:20])


def _files_error(
    code: str, source: Source, faulty: Sequence[tuple[FileFacts, _Fault]], field_name: str = ""
) -> Finding:
    """An error of whole files: the first in a sentence, of several all in the list."""
    first, fault = faulty[0]
    return Finding(
        level="error",
        code=code,
        message=f"{field_name}{first.uri} {fault.what}.{_likewise(source, len(faulty) - 1)}",
        file=source.home,
        count=len(faulty),
        lines=tuple(
            f"{file.name}: {fault.what}{fault.more}"
            for file, fault in faulty[:LISTED]
            if len(source.files) > 1 or fault.more
        ),
    )


def _likewise(source: Source, more: int) -> str:
    return f" So it is with {more:,} more of {source.home}." if more else ""


def _bad_rows(source: Source, max_bad: float) -> Finding:
    share, first = len(source.bad) / source.rows, source.bad[0]
    message = (
        f"{len(source.bad):,} of {source.rows:,} rows of {source.home} cannot be used; "
        f"the first: line {first.line} {first.reason}."
    )
    lines = tuple(f"{bad.line}: {bad.reason}" for bad in source.bad[:LISTED])
    if share <= max_bad:
        return Finding(
            level="warning",
            code="BadRows",
            message=message,
            file=source.home,
            count=len(source.bad),
            lines=lines,
        )
    mostly_encoding = sum(bad.encoding for bad in source.bad) * 2 > len(source.bad)
    return Finding(
        level="error",
        code="DataCorrupt" if mostly_encoding else "TooManyBadRows",
        message=f"{message} dataset.maxBadRowFraction allows {max_bad:.2%}.",
        file=source.home,
        count=len(source.bad),
        lines=lines,
    )


def without_overlap(
    rows: Sequence[Kind], held_out: Iterable[Example], same: Sameness
) -> tuple[list[Kind], list[Kind]]:
    """The rows that are no held-out question, and the rows that are."""
    keys = {same.of(example) for example in held_out}
    kept: list[Kind] = []
    left_out: list[Kind] = []
    for row in rows:
        (left_out if same.of(row) in keys else kept).append(row)
    return kept, left_out


def overlap(
    rows: Sequence[Example], held_out: Iterable[Example], uri: str, of: str, among: str
) -> list[Finding]:
    """Says which rows were left out because they, or their prompts, are also held out."""
    if not rows:
        return []
    texts = {whole(row) for row in held_out}
    prompts = sum(whole(row) not in texts for row in rows)
    if not prompts:
        why = f"because their text is also among the {among} rows"
    elif prompts == len(rows):
        why = f"because their prompt, which precedes the first learnt text, is also among the {among} rows"
    else:
        why = (
            f"because the whole text of {len(rows) - prompts:,} and only the prompt of {prompts:,}, which"
            f" precedes the first learnt text, is also among the {among} rows"
        )
    return [
        Finding(
            level="warning",
            code="Overlap",
            message=f"{len(rows):,} {of} rows were left out {why}.",
            file=uri,
            count=len(rows),
            lines=tuple(f"{row.line}: {row.excerpt}" for row in rows[:LISTED]),
        )
    ]


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
    return Finding(level="error", code=code, message=message, file=source.home)
