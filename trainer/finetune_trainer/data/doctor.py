"""PURE: the data check: examples from rows, and findings about rows that cannot be used."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from finetune_trainer.contract import printable
from finetune_trainer.data.findings import LISTED, Finding, warning
from finetune_trainer.data.groups import Groups
from finetune_trainer.data.lines import FileSpan, Line
from finetune_trainer.data.readers import BadRow, FileFaultError, Opened, Row
from finetune_trainer.data.rows import Part, Reader, Rows, RowWriter
from finetune_trainer.data.sameness import Sameness

_FEW_TEST_ROWS = 100
_COLUMN = 60
"""Letters of a column's name that are shown."""
MOST_COLUMNS = 1000
"""Names of columns that are kept of a file: each row of JSON may have names of its own."""
MOST_REASONS = 32
"""Reasons of bad rows that are counted apart; the others are counted together."""
_OTHER_REASONS = "another reason"
_NUMBER = re.compile(r"0x[0-9a-f]+|\d[\d,]*")
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
class BadRows:
    """The rows of a source that cannot be used: all counted, the first of them kept."""

    count: int = 0
    encoding: int = 0
    """How many of them have bytes that are no text."""
    first: list[BadRow] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """Rows by reason, numbers in a reason left out; MOST_REASONS of them, then `another reason`."""

    def add(self, row: BadRow) -> None:
        """Counts a row."""
        self.count += 1
        self.encoding += row.encoding
        if len(self.first) < LISTED:
            self.first.append(row)
        reason = _NUMBER.sub("…", row.reason)
        known = reason in self.reasons or len(self.reasons) < MOST_REASONS
        self.reasons[reason if known else _OTHER_REASONS] += 1


@dataclass
class Source:
    """What the files of one split hold."""

    home: str
    """What findings call it: the URI of its only file, or the split."""
    usable: Rows
    bad: BadRows
    files: list[FileFacts]

    @property
    def rows(self) -> int:
        """Rows of all files, bad ones included."""
        return sum(file.rows for file in self.files)


def read_source(
    home: str,
    files: Sequence[Unread],
    read: Reader,
    writer: RowWriter,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Source:
    """Every row of some files as a usable or a bad row; a fault of a file ends that file.

    Args:
        home: what findings call the files.
        files: in the order in which their rows are counted.
        read: makes an example of a row.
        writer: takes the usable rows.
        on_progress: told the rows read so far, after every row.
    """
    facts: list[FileFacts] = []
    spans: list[FileSpan] = []
    bad = BadRows()
    last = rows = 0
    for unread in files:
        file, before = FileFacts(unread.uri, unread.name), last
        facts.append(file)
        spans.append(FileSpan(file=unread.name, before=before))
        try:
            opened = unread.open()
            file.warnings = opened.warnings
            file.columns.update(dict.fromkeys(opened.columns, 0))
            file.header_is_a_line = opened.header_is_a_line
            file.dialect, file.hint = opened.dialect, opened.hint
            for row in opened.rows:
                last = before + row.line
                _take(file, row, Line.of(last, spans) if len(files) > 1 else last, read, writer, bad)
                rows += 1
                on_progress(rows)
            file.warnings += opened.after()
        except FileFaultError as error:
            file.fault = str(error)
    return Source(home, writer.finish(spans, read), bad, facts)


def _take(
    file: FileFacts, row: Row | BadRow, line: int, read: Reader, writer: RowWriter, bad: BadRows
) -> None:
    file.rows += 1
    if isinstance(row, BadRow):
        bad.add(replace(row, line=line))
        return
    names = list(row.values)[:LISTED]
    if len(file.columns) >= MOST_COLUMNS:
        names = [name for name in names if name in file.columns]
    file.columns.update(names)
    found = read(line, row.values)
    if isinstance(found, str):
        bad.add(BadRow(line, found))
    else:
        writer.append(found, row.values)


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
    if source.bad.count:
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
    bad, first = source.bad, source.bad.first[0]
    message = (
        f"{bad.count:,} of {source.rows:,} rows of {source.home} cannot be used; "
        f"the first: line {first.line} {first.reason}."
    )
    lines = tuple(f"{row.line}: {row.reason}" for row in bad.first)
    if bad.count / source.rows <= max_bad:
        return Finding(
            level="warning",
            code="BadRows",
            message=message,
            file=source.home,
            count=bad.count,
            lines=lines,
        )
    return Finding(
        level="error",
        code="DataCorrupt" if bad.encoding * 2 > bad.count else "TooManyBadRows",
        message=f"{message} dataset.maxBadRowFraction allows {max_bad:.2%}.",
        file=source.home,
        count=bad.count,
        lines=lines,
    )


def without_overlap(part: Part, held_out: Sequence[Part], same: Sameness) -> tuple[Part, Part]:
    """The rows that are no held-out question, and the rows that are."""
    also = np.isin(same.of(part), np.concatenate([np.zeros(0, np.uint64), *map(same.of, held_out)]))
    return part.where(~also), part.where(also)


def overlap(part: Part, held_out: Sequence[Part], uri: str, of: str, among: str) -> list[Finding]:
    """Says which rows were left out because they, or their prompts, are also held out."""
    if not len(part):
        return []
    texts = np.concatenate([held.wholes for held in held_out])
    prompts = int((~np.isin(part.wholes, texts)).sum())
    if not prompts:
        why = f"because their text is also among the {among} rows"
    elif prompts == len(part):
        why = f"because their prompt, which precedes the first learnt text, is also among the {among} rows"
    else:
        why = (
            f"because the whole text of {len(part) - prompts:,} and only the prompt of {prompts:,}, which"
            f" precedes the first learnt text, is also among the {among} rows"
        )
    return [
        Finding(
            level="warning",
            code="Overlap",
            message=f"{len(part):,} {of} rows were left out {why}.",
            file=uri,
            count=len(part),
            lines=tuple(f"{row.line}: {row.excerpt}" for row in part.first(LISTED)),
        )
    ]


def repeated(part: Part) -> int:
    """How many rows repeat an earlier row."""
    return len(part) - len(np.unique(part.identities))


def duplicates(part: Part, uri: str) -> list[Finding]:
    """Rows that repeat another row; they are kept."""
    groups = Groups.of(part.identities)
    again = len(part) - len(groups)
    if not again:
        return []
    lines = tuple(
        ", ".join(str(part.line(place)) for place in group[:10]) + ": same text"
        for group in groups.listed(groups.sizes > 1, LISTED)
    )
    message = f"{again:,} rows of {uri} repeat a text."
    return [Finding(level="warning", code="Duplicates", message=message, file=uri, count=again, lines=lines)]


@dataclass
class Refused:
    """Usable rows that could not be tokenised for one reason: all counted, the first of them kept."""

    what: str
    """Continues `12 train rows of s3://...`."""
    count: int = 0
    first: list[str] = field(default_factory=list)
    """`<line>: <why>`; the report alone shows these."""
    line: str = ""
    """Of the first row."""

    def add(self, line: int, why: str) -> None:
        """Counts a row."""
        self.line = self.line or str(line)
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(f"{line}: {why}")


def refused(code: str, rows: Refused, split: str, source: Source, lost: int, max_bad: float) -> Finding:
    """Says which rows could not be tokenised; an error when too many rows of their files are lost.

    Args:
        code: of the finding.
        rows: what was refused in a split.
        split: name of the split.
        source: the files that the rows come from.
        lost: rows of these files that are bad or could not be tokenised, in all splits and for any reason.
        max_bad: share of the rows that may be lost, 0 to 1.
    """
    message = f"{rows.count:,} {split} rows of {source.home} {rows.what}; the first: line {rows.line}."
    too_many = lost / source.rows > max_bad
    allowed = (
        f" With all bad rows these are {lost:,} of {source.rows:,};"
        f" dataset.maxBadRowFraction allows {max_bad:.2%}."
    )
    return Finding(
        level="error" if too_many else "warning",
        code=code,
        message=message + (allowed if too_many else " They are left out."),
        file=source.home,
        count=rows.count,
        lines=tuple(rows.first),
    )


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
