"""PURE: checks the data set and returns findings for the data report."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune_trainer.contract import printable
from finetune_trainer.data.findings import MAX_LISTED, Finding, warning
from finetune_trainer.data.grouping import Grouping
from finetune_trainer.data.groups import Groups
from finetune_trainer.data.rows import RowSubset
from finetune_trainer.data.source_reader import FileSummary, Source

_FEW_TEST_ROWS = 100
_NAME_CHARACTERS = 60
"""Maximum number of characters of a column name in a finding."""
_SHOWN_TOKENS = 8
"""Maximum number of added tokens in a message."""
FindMissingColumns = Callable[[Iterable[str]], tuple[str, ...]]
"""Returns the required columns that are not among the columns of a file."""


def check_source(source: Source, find_missing: FindMissingColumns, max_bad: float) -> list[Finding]:
    """Checks whether the files of a split can be used.

    Args:
        source: the files and their rows.
        find_missing: finds the required columns that a file lacks.
        max_bad: maximum share of bad rows, from 0 to 1.
    """
    findings = _report_file_notes(source)
    faulty = [(file, _Fault(f"cannot be read: {file.fault}")) for file in source.files if file.fault]
    if faulty:
        return [*findings, _report_faulty_files("DataCorrupt", source, faulty)]
    if not source.rows:
        return [*findings, _error("NoRows", f"{source.home} holds no rows.", source)]
    lacking = [(file, what) for file in source.files if (what := _find_missing_columns(file, find_missing))]
    if lacking:
        return [*findings, _report_faulty_files("ColumnsMissing", source, lacking, "dataset.columns: ")]
    if source.bad.count:
        findings.append(_report_bad_rows(source, max_bad))
    return findings


def _report_file_notes(source: Source) -> list[Finding]:
    """Returns the warnings of the readers; the same warning of several files is one finding."""
    noted: dict[str, list[FileSummary]] = defaultdict(list)
    for file in source.files:
        empty = ("it holds no rows",) if source.rows and not file.rows and not file.fault else ()
        for note in (*file.warnings, *empty):
            noted[note].append(file)
    return [
        Finding(
            level="warning",
            code="FileNote",
            message=f"{files[0].uri}: {note}.{_count_other_files(source, len(files) - 1)}",
            file=source.home,
            count=len(files),
            lines=tuple(file.name for file in files[:MAX_LISTED] if len(source.files) > 1),
        )
        for note, files in noted.items()
    ]


@dataclass(frozen=True)
class _Fault:
    """A fault of a whole file."""

    what: str
    """Text for the message, which contains no value of a row."""
    more: str = ""
    """Further text for the report, which may contain values of a row."""


def _find_missing_columns(file: FileSummary, find_missing: FindMissingColumns) -> _Fault | None:
    """Returns the fault of a file that lacks required columns, otherwise None."""
    # A header names columns even if no row can be used; JSON names columns only in rows.
    lacking = find_missing([name for name, count in file.columns.items() if count or file.header_is_a_line])
    if not lacking or not file.columns or not file.rows:
        return None
    missing = f"has no column {' and no '.join(map(repr, lacking))}"
    column_names = [name for name in file.columns if _is_column_name(file, name, find_missing)]
    if column_names:
        return _Fault(f"{missing}; it has {_join_names(column_names)}")
    row_columns = f"; it has {_join_names(file.columns)}"
    if file.header_is_a_line:
        read_as = f". The file is read as {file.dialect}" if file.dialect else ""
        hint = f"; {file.hint.removesuffix('.')}" if file.hint else ""
        return _Fault(f"{missing} in its header{read_as}{hint}", row_columns)
    return _Fault(f"{missing}; no other is in half of its rows", row_columns)


def _is_column_name(file: FileSummary, name: str, find_missing: FindMissingColumns) -> bool:
    """Returns whether a message may show the name: a header line without a header row can be row data.

    The first line of a CSV file is a header if the line names a required column. A key of JSON rows is a
    column name if at least half of the rows have the key.
    """
    if file.header_is_a_line:
        return find_missing(list(file.columns)) != find_missing([])
    return file.columns[name] * 2 >= file.rows or file.columns[name] == 0


def _join_names(columns: Iterable[str]) -> str:
    return ", ".join(printable(name)[:_NAME_CHARACTERS] or "''" for name in sorted(columns)[:20])


def _report_faulty_files(
    code: str, source: Source, faulty: Sequence[tuple[FileSummary, _Fault]], field_name: str = ""
) -> Finding:
    """Returns an error about whole files: the message names the first file, the lines name all files."""
    first, fault = faulty[0]
    return Finding(
        level="error",
        code=code,
        message=f"{field_name}{first.uri} {fault.what}.{_count_other_files(source, len(faulty) - 1)}",
        file=source.home,
        count=len(faulty),
        lines=tuple(
            f"{file.name}: {fault.what}{fault.more}"
            for file, fault in faulty[:MAX_LISTED]
            if len(source.files) > 1 or fault.more
        ),
    )


def _count_other_files(source: Source, more: int) -> str:
    files = "file" if more == 1 else "files"
    return f" The same applies to {more:,} more {files} of {source.home}." if more else ""


def _report_bad_rows(source: Source, max_bad: float) -> Finding:
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


def separate_overlap(
    part: RowSubset, held_out: Sequence[RowSubset], same: Grouping
) -> tuple[RowSubset, RowSubset]:
    """Separates the rows of a split from the rows that are also held out.

    Args:
        part: rows of a split.
        held_out: rows of the held-out splits.
        same: defines which rows count as the same question.

    Returns:
        The rows without and the rows with a held-out row of the same group.
    """
    also = np.isin(same.of(part), np.concatenate([np.zeros(0, np.uint64), *map(same.of, held_out)]))
    return part.select(~also), part.select(also)


def report_overlap(
    part: RowSubset, held_out: Sequence[RowSubset], uri: str, of: str, among: str
) -> list[Finding]:
    """Reports the rows that were omitted because their text or their prompt is also held out.

    Args:
        part: the omitted rows.
        held_out: rows of the held-out splits.
        uri: name of the files of the omitted rows.
        of: name of the split of the omitted rows.
        among: names of the held-out splits.
    """
    if not len(part):
        return []
    texts = np.concatenate([held.row_hashes for held in held_out])
    prompts = int((~np.isin(part.row_hashes, texts)).sum())
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
            lines=tuple(f"{row.line}: {row.excerpt}" for row in part.first(MAX_LISTED)),
        )
    ]


def count_repeated_rows(part: RowSubset) -> int:
    """Returns the number of rows that repeat an earlier row."""
    return len(part) - len(np.unique(part.identities))


def report_duplicates(part: RowSubset, uri: str) -> list[Finding]:
    """Reports rows that repeat another row. Training keeps these rows."""
    groups = Groups.of(part.identities)
    again = len(part) - len(groups)
    if not again:
        return []
    lines = tuple(
        ", ".join(str(part.line(index)) for index in group[:10]) + ": same text"
        for group in groups.list_members(groups.sizes > 1, MAX_LISTED)
    )
    message = f"{again:,} rows of {uri} repeat a text."
    return [Finding(level="warning", code="Duplicates", message=message, file=uri, count=again, lines=lines)]


@dataclass
class RefusedRows:
    """Count of the rows that could not be tokenised for one reason, and the first of these rows."""

    what: str
    """Predicate of the message, after `12 train rows of s3://...`."""
    count: int = 0
    first: list[str] = field(default_factory=list)
    """`<line>: <reason>` for the report."""
    line: str = ""
    """Line of the first row."""

    def add(self, line: int, why: str) -> None:
        """Counts a row."""
        self.line = self.line or str(line)
        self.count += 1
        if len(self.first) < MAX_LISTED:
            self.first.append(f"{line}: {why}")


def report_refused_rows(
    code: str, rows: RefusedRows, split: str, source: Source, lost: int, max_bad: float
) -> Finding:
    """Reports rows that could not be tokenised: an error if too many rows of the files are lost.

    Args:
        code: code of the finding.
        rows: the refused rows of a split.
        split: name of the split.
        source: the files of the rows.
        lost: number of rows of these files that are bad or refused, in all splits and for any reason.
        max_bad: maximum share of lost rows, from 0 to 1.
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


def check_test_rows(rows: int) -> list[Finding]:
    """Warns if the number of test rows is too small for precise scores."""
    if rows >= _FEW_TEST_ROWS:
        return []
    return [warning("FewTestRows", f"There are only {rows} test rows: the scores will have wide intervals.")]


def report_truncation(cut_rows: int, rows: int, lost: int, max_length: int) -> list[Finding]:
    """Warns if training rows are truncated.

    Args:
        cut_rows: number of truncated training rows.
        rows: number of training rows.
        lost: number of tokens that are cut off.
        max_length: length in tokens to which rows are truncated.
    """
    if not cut_rows:
        return []
    return [
        warning(
            "Truncated",
            f"{cut_rows:,} of {rows:,} training rows are longer than {max_length} tokens; "
            f"{lost:,} tokens are cut off.",
            count=cut_rows,
        )
    ]


def report_known_tokens(tokens: Sequence[str]) -> list[Finding]:
    """Notes the tokens of a job that the vocabulary of the base model already has.

    Args:
        tokens: these tokens, which stand in the spec of the job.
    """
    if not tokens:
        return []
    text = (
        f"method.lora.addedTokens: the vocabulary of the base model already has {_list_tokens(tokens)}."
        " The tokenizer does not split such a token, and the model keeps its embedding as the start."
    )
    return [warning("Note", text, tokens)]


def report_unused_tokens(tokens: Sequence[str], added: int) -> list[Finding]:
    """Warns about tokens of a job that occur in no training row.

    Args:
        tokens: these tokens, which stand in the spec of the job.
        added: number of tokens that the job adds.
    """
    if not tokens:
        return []
    text = (
        f"method.lora.addedTokens: {len(tokens)} of {added} tokens occur in no training row:"
        f" {_list_tokens(tokens)}. The model cannot learn their meaning."
    )
    return [warning("AddedTokensUnused", text, tokens)]


def _list_tokens(tokens: Sequence[str]) -> str:
    more = len(tokens) - _SHOWN_TOKENS
    return ", ".join(map(repr, tokens[:_SHOWN_TOKENS])) + (f" and {more} more" if more > 0 else "")


def _error(code: str, message: str, source: Source) -> Finding:
    return Finding(level="error", code=code, message=message, file=source.home)
