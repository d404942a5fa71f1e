"""PURE: reads the files of a split into usable rows and bad rows."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from finetune_trainer.data.file_rows import BadRow, FileFaultError, OpenedFile, Row
from finetune_trainer.data.findings import MAX_LISTED
from finetune_trainer.data.lines import FileSpan, Line
from finetune_trainer.data.rows import ReadRow, Rows, RowWriter

MAX_COLUMNS = 1000
"""Maximum number of column names kept for a file, because each row of JSON may have other names."""
MAX_REASONS = 32
"""Maximum number of reasons that are counted separately."""
_OTHER_REASONS = "another reason"
_NUMBER = re.compile(r"0x[0-9a-f]+|\d[\d,]*")


@dataclass(frozen=True)
class SourceFile:
    """A file before it is read."""

    uri: str
    name: str
    """Path below the folder that all files of the split share."""
    open: Callable[[], OpenedFile]
    """Opens the file; raises FileFaultError if the file cannot be read."""
    size: int = 0
    """Bytes."""


@dataclass
class FileSummary:
    """Properties of a file that was read."""

    uri: str
    name: str
    columns: Counter[str] = field(default_factory=Counter)
    """Number of rows that have each column."""
    header_is_a_line: bool = False
    """See OpenedFile."""
    dialect: str = ""
    """See OpenedFile."""
    hint: str = ""
    """See OpenedFile."""
    rows: int = 0
    fault: str = ""
    """Reason why the file could not be read to its end; empty without a fault."""
    warnings: tuple[str, ...] = ()


@dataclass
class BadRows:
    """Counts of the rows of a source that cannot be used, and the first MAX_LISTED of these rows."""

    count: int = 0
    encoding: int = 0
    """Number of rows whose bytes are not valid text."""
    first: list[BadRow] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of rows by reason, with numbers in a reason replaced; reasons beyond MAX_REASONS count
    together."""

    def add(self, row: BadRow) -> None:
        """Counts a row."""
        self.count += 1
        self.encoding += row.encoding
        if len(self.first) < MAX_LISTED:
            self.first.append(row)
        reason = _NUMBER.sub("…", row.reason)
        is_listed = reason in self.reasons or len(self.reasons) < MAX_REASONS
        self.reasons[reason if is_listed else _OTHER_REASONS] += 1


@dataclass
class Source:
    """The rows of the files of one split."""

    home: str
    """Name of the files in findings: the URI of a single file, otherwise the name of the split."""
    usable: Rows
    bad: BadRows
    files: list[FileSummary]

    @property
    def rows(self) -> int:
        """Number of rows of all files, bad rows included."""
        return sum(file.rows for file in self.files)


def read_source(
    home: str,
    files: Sequence[SourceFile],
    read: ReadRow,
    writer: RowWriter,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Source:
    """Reads all rows of the files of a split. A file with a fault is read up to the fault.

    Args:
        home: name of the files in findings.
        files: the files, in the order in which their rows are numbered.
        read: converts the values of a row to an example.
        writer: receives the usable rows.
        on_progress: called after every row with the number of bytes of the files that were read so far.
    """
    facts: list[FileSummary] = []
    spans: list[FileSpan] = []
    bad = BadRows()
    last = bytes_before = 0
    for unread in files:
        file, before = FileSummary(unread.uri, unread.name), last
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
                _add_row(file, row, Line.of(last, spans) if len(files) > 1 else last, read, writer, bad)
                share = row.line / opened.total_rows if opened.total_rows else None
                on_progress(bytes_before + (opened.position() if share is None else share * unread.size))
            file.warnings += opened.late_warnings()
        except FileFaultError as error:
            file.fault = str(error)
        bytes_before += unread.size
    return Source(home, writer.finish(spans, read), bad, facts)


def _add_row(
    file: FileSummary, row: Row | BadRow, line: int, read: ReadRow, writer: RowWriter, bad: BadRows
) -> None:
    file.rows += 1
    if isinstance(row, BadRow):
        bad.add(replace(row, line=line))
        return
    names = list(row.values)[:MAX_LISTED]
    if len(file.columns) >= MAX_COLUMNS:
        names = [name for name in names if name in file.columns]
    file.columns.update(names)
    found = read(line, row.values)
    if isinstance(found, str):
        bad.add(BadRow(line, found))
    else:
        writer.append(found, row.values)
