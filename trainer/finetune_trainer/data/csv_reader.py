"""PURE: reads the rows of a CSV file (comma, semicolon or tab)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from finetune_trainer.data.csv_records import (
    BLANK,
    TOO_LONG,
    BadRecord,
    Dialect,
    Lines,
    Record,
    all_cells_quoted,
    count_cells,
    detect_delimiter,
    parse_separator_hint,
    read_record,
    read_records,
)
from finetune_trainer.data.file_rows import (
    MAX_ROW_CHARACTERS,
    BadRow,
    FileFaultError,
    OpenedFile,
    Row,
    check_text,
)

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def peek_line(lines: Lines) -> str:
    """Skips blank lines and returns the next line without consuming the line; empty at the end."""
    while (line := lines.next_line()) is not None:
        if line.strip(BLANK):
            lines.push_back([line])
            return line
    return ""


@dataclass
class _Table:
    """A CSV file whose header has been read, and statistics of the rows."""

    dialect: Dialect
    cells: tuple[str, ...]
    """Cells of the header; '' for a column without a name."""
    long_rows: int = 0
    """Number of rows of several lines."""
    longest: tuple[int, int] = (0, 0)
    """Number of lines of the longest row, and the negative line number where the row starts."""
    nameless_values: int = 0
    """Number of rows with a value in a column without a name."""
    letters: int = 0
    """Number of cells that begin and end with quotation marks, where the dialect has no quoting."""
    named: tuple[int, ...] = field(init=False)
    """Indices of the columns that have a name."""

    def __post_init__(self) -> None:
        """Finds the columns that have a name."""
        self.named = tuple(number for number, name in enumerate(self.cells) if name)

    def rows(self, lines: Lines) -> Iterator[Row | BadRow]:
        """The rows after the header."""
        for found in read_records(lines, self.dialect, len(self.cells), MAX_ROW_CHARACTERS):
            if isinstance(found, BadRecord):
                yield BadRow(found.line, found.reason)
            elif bad := check_text("".join(found.cells), found.line):
                yield bad
            else:
                self._count(found)
                values = {self.cells[number]: found.cells[number] for number in self.named}
                yield Row(found.line, values, found.lines)

    def _count(self, found: Record) -> None:
        if found.lines > 1:
            self.long_rows += 1
            self.longest = max(self.longest, (found.lines, -found.line))
        if len(self.named) < len(self.cells):
            self.nameless_values += any(
                cell.strip() for name, cell in zip(self.cells, found.cells, strict=True) if not name
            )
        if not self.dialect.quoted:
            self.letters += sum(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in found.cells)

    def warnings(self) -> tuple[str, ...]:
        """Returns warnings about the rows that were read."""
        warnings = []
        if self.long_rows:
            lines, line = self.longest[0], -self.longest[1]
            warnings.append(
                f"{self.long_rows:,} of its rows run over several lines, because quotation marks enclose line"
                f" breaks; the longest, line {line}, over {lines:,} lines"
            )
        if self.nameless_values:
            warnings.append(f"{self.nameless_values:,} of its rows have values in columns without a name")
        if self.letters:
            warnings.append(
                f"{self.letters:,} of its cells begin and end with quotation marks, which are letters of the"
                " cells in a .tsv file whose header has none; if the marks enclose the cells, enclose the"
                " names of the header too, or name the file .csv"
            )
        return tuple(warnings)


def open_csv(lines: Lines, warnings: list[str], *, tabs: bool) -> OpenedFile:
    """Reads the header of a CSV file; the rows are read on iteration.

    Args:
        lines: the lines of the file.
        warnings: warnings about the file so far; the function appends warnings.
        tabs: whether the name of the file ends in .tsv.

    Raises:
        FileFaultError: the header is malformed, too long, or has a column more than once.
    """
    delimiters = "\t,;" if tabs else ",;\t"
    first = _read_header_line(lines, delimiters)
    hint = parse_separator_hint(first)
    if hint is not None:
        first = _read_header_line(lines, delimiters)
    if not first:
        return OpenedFile(iter(()), (), tuple(warnings))
    if first == TOO_LONG or "\0" in first:
        raise FileFaultError(f"its header (line {lines.number}) is too long or has a NUL character")
    delimiter = hint or detect_delimiter(first, delimiters)
    # Most programs write tab-separated values without quoting, so a quotation mark is part of a cell.
    dialect = Dialect(delimiter, not (tabs and delimiter == "\t") or all_cells_quoted(first, delimiter))
    line = lines.number
    header = read_record(first, lines, dialect, None, MAX_ROW_CHARACTERS)
    if isinstance(header, BadRecord):
        raise FileFaultError(f"its header is not CSV: line {line} {header.reason}")
    table = _Table(dialect, tuple(cell.strip() for cell in header.cells))
    columns = tuple(table.cells[number] for number in table.named)
    _check_names(table.cells)
    description = _describe_dialect(dialect, line, columns)
    if delimiter != delimiters[0] or line > 1 or (tabs and dialect.quoted):
        warnings.append(f"it is read as {description}")
    if len(columns) < len(table.cells):
        warnings.append(f"{len(table.cells) - len(columns):,} of its columns have no name and are not read")
    rows = table.rows(lines)
    title = _suggest_title(lines, line, len(columns), dialect, delimiters)
    return OpenedFile(rows, columns, tuple(warnings), True, description, title, table.warnings)


def _read_header_line(lines: Lines, delimiters: str) -> str:
    """Returns the next line that contains more than delimiters; empty at the end."""
    while (line := lines.next_line()) is not None:
        if line.strip(f'{delimiters} "\r\n'):
            return line
    return ""


def _check_names(cells: tuple[str, ...]) -> None:
    twice = [name for name, count in Counter(cells).items() if name and count > 1]
    if twice:
        # The message contains numbers, because the names are row data if the file has no header.
        numbers = [number for number, name in enumerate(cells, start=1) if name == twice[0]]
        raise FileFaultError(
            f"its header has a column more than once: columns {', '.join(map(str, numbers[:5]))}"
        )


def _describe_dialect(dialect: Dialect, line: int, columns: tuple[str, ...]) -> str:
    """Describes how the file is read."""
    delimiter = _DELIMITERS.get(dialect.delimiter, repr(dialect.delimiter))
    marks = "enclose cells" if dialect.quoted else "are letters of the cells"
    named = f"{len(columns):,} named column{'s' * (len(columns) != 1)}"
    return (
        f"UTF-8 text with {delimiter} between the cells; quotation marks {marks}; the header is line {line},"
        f" with {named}"
    )


def _suggest_title(lines: Lines, line: int, columns: int, dialect: Dialect, delimiters: str) -> str:
    """Suggests that the header line is a title if the next line has more cells; otherwise empty."""
    second = peek_line(lines)
    number = lines.number + 1
    delimiter = dialect.delimiter if dialect.delimiter in second else detect_delimiter(second, delimiters)
    cells = count_cells(second, delimiter)
    if cells <= columns:
        return ""
    return (
        f"line {line} has {columns:,} cell{'s' * (columns != 1)}, line {number} has {cells:,}: is line {line}"
        " a title? Delete it"
    )
