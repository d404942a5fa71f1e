from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import pytest

from finetune_trainer.data import data_checks, source_reader
from finetune_trainer.data.file_rows import BadRow, FileFaultError, OpenedFile, Row
from finetune_trainer.data.findings import Finding
from finetune_trainer.data.grouping import GROUP_BY_KEY
from finetune_trainer.data.readers import open_rows
from finetune_trainer.data.rows import RowSubset, RowWriter, Strata
from finetune_trainer.data.source_reader import Source, SourceFile
from finetune_trainer.tasks.text_classification.data import LabelledText
from tests.trainer.data.kept import kept


def read(line: int, values: dict[str, str]) -> LabelledText | str:
    if absent(values):
        return "lacks a column"
    return LabelledText(line, values["text"], values["label"])


def absent(there: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in ("text", "label") if name not in there)


def read_source(home: str, unread: list[SourceFile]) -> Source:
    writer = RowWriter(Path(mkdtemp(prefix="rows-")) / "rows.arrow", Strata())
    return source_reader.read_source(home, unread, read, writer)


def source(files: dict[str, str]) -> Source:
    """The data set of these files, by their names."""
    unread = [
        SourceFile(f"s3://data/{name}", name, partial(open_rows, [text.encode()], name))
        for name, text in files.items()
    ]
    home = f"s3://data/{next(iter(files))}" if len(files) == 1 else f"dataset.train ({len(files)} files)"
    return read_source(home, unread)


def check(text: str, max_bad: float = 0.01, name: str = "rows.jsonl") -> list[Finding]:
    return data_checks.check_source(source({name: text}), absent, max_bad)


def check_all(files: dict[str, str], max_bad: float = 0.01) -> list[Finding]:
    return data_checks.check_source(source(files), absent, max_bad)


def rows(*pairs: tuple[str, str]) -> RowSubset:
    texts = [LabelledText(line, text, label) for line, (text, label) in enumerate(pairs, start=1)]
    return kept(texts).all_rows()


def test_missing_columns_name_those_that_are_there() -> None:
    (finding,) = check('{"body": "a", "queue": "b"}\n')
    assert (finding.level, finding.code) == ("error", "ColumnsMissing")
    assert "'text' and no 'label'; it has body, queue" in finding.message


def test_a_first_line_that_may_be_a_row_is_quoted_in_the_report_alone() -> None:
    (finding,) = check("My card is stolen,fraud\nHello,other\n", name="rows.csv")
    assert "has no column 'text' and no 'label' in its header. The file is read as UTF-8" in finding.message
    assert "the header is line 1, with 2 named columns." in finding.message
    (line,) = finding.lines
    assert line.endswith("; it has My card is stolen, fraud")


def test_a_line_above_the_header_is_asked_about() -> None:
    text = "Export of 2026-11-28;\r\ntext;label\r\na;b\r\n"
    (*_, finding) = check(text, name="rows.csv")
    assert (finding.code, finding.level) == ("ColumnsMissing", "error")
    assert "line 1 has 1 cell, line 2 has 2: is line 1 a title? Delete it." in finding.message
    assert "Export" not in finding.message


def test_a_header_is_there_also_if_no_row_can_be_used() -> None:
    (finding,) = check("text,label\na,b,c\nd,e,f\n", name="rows.csv")
    assert finding.code == "TooManyBadRows"
    assert "line 2 has 3 cells, the header has 2." in finding.message


def test_a_column_with_an_empty_name_is_shown() -> None:
    (finding,) = check('{"": 1, "body": 2}\n')
    assert "it has '', body." in finding.message


def test_a_file_in_another_encoding_is_corrupt_whatever_share_of_its_rows() -> None:
    rows = "".join(f"text {number},a\n" for number in range(400))
    data = f"text,label\n{rows}Schl\u00fcssel,b\n".encode("cp1252")
    unread = [SourceFile("s3://data/a.csv", "a.csv", partial(open_rows, [data], "a.csv"))]
    (error,) = data_checks.check_source(read_source("s3://data/a.csv", unread), absent, 0.5)
    assert (error.code, error.level) == ("DataCorrupt", "error")
    assert "line 402 is not UTF-8 (byte 0xfc), but probably Windows-1252; save it as UTF-8" in error.message


def test_rows_that_run_over_lines_are_noted() -> None:
    text = 'text,label\n"one\ntwo\nthree",a\n"four\nfive",b\n'
    (note,) = check(text, name="rows.csv")
    assert (note.level, note.code) == ("warning", "FileNote")
    assert "2 of its rows run over several lines" in note.message
    assert "the longest, line 2, over 3 lines" in note.message


def test_keys_that_each_row_has_of_its_own_are_quoted_in_the_report_alone() -> None:
    (finding,) = check("".join(f'{{"card {n} stolen": 1}}\n' for n in range(9)))
    assert "no 'label'; no other is in half of its rows." in finding.message
    assert "card 3 stolen" in finding.lines[0]


def test_names_of_columns_are_escaped_for_terminals_and_cut() -> None:
    (finding,) = check('{"a\\u001b[31m\\u202eb": 1, "' + "c" * 200 + '": 1}\n')
    assert "it has a\\x1b[31m\\u202eb, " + "c" * 60 + "." in finding.message


@pytest.mark.parametrize(
    ("text", "name"), [("", "rows.jsonl"), ("\n\n", "rows.jsonl"), ("text,label\n", "rows.csv")]
)
def test_no_rows_is_an_error(text: str, name: str) -> None:
    assert [finding.code for finding in check(text, name=name)] == ["NoRows"]


def test_bad_rows_up_to_the_allowed_share_are_a_warning_and_above_it_an_error() -> None:
    text = '{"text": "a", "label": "b"}\n' * 9 + "nonsense\n"
    (warning,) = check(text, max_bad=0.1)
    assert (warning.level, warning.code, warning.count) == ("warning", "BadRows", 1)
    assert warning.lines[0].startswith("10: is not JSON")
    (error,) = check(text, max_bad=0.09)
    assert (error.level, error.code) == ("error", "TooManyBadRows")
    assert "line 10 is not JSON" in error.message


def test_a_hundred_bad_rows_are_listed_and_all_are_counted() -> None:
    (error,) = check("nonsense\n" * 250)
    assert (error.count, len(error.lines)) == (250, 100)


GOOD_LINE = '{"text": "a", "label": "b"}\n'


def test_rows_are_counted_on_through_the_files_and_named_by_file_and_line() -> None:
    read = source({"a.jsonl": GOOD_LINE * 2 + "\n", "b.csv": "text,label\nc,d\n", "c.jsonl": GOOD_LINE})
    examples = read.usable.all_rows().first(9)
    assert [row.line for row in examples] == [1, 2, 4, 5]
    assert [str(row.line) for row in examples] == ["a.jsonl:1", "a.jsonl:2", "b.csv:2", "c.jsonl:1"]
    (only,) = source({"a.jsonl": GOOD_LINE}).usable.all_rows().first(9)
    assert (only.line, str(only.line)) == (1, "1")


def test_bad_rows_of_several_files_are_counted_together_and_named_by_file_and_line() -> None:
    files = {"a.jsonl": GOOD_LINE * 8, "b.jsonl": GOOD_LINE + "nonsense\n"}
    (warning,) = check_all(files, max_bad=0.1)
    assert (warning.code, warning.file, warning.count) == ("BadRows", "dataset.train (2 files)", 1)
    assert warning.lines[0].startswith("b.jsonl:2: is not JSON")
    (error,) = check_all(files, max_bad=0.09)
    assert "1 of 10 rows of dataset.train (2 files)" in error.message
    assert "line b.jsonl:2 is not JSON" in error.message


def test_a_file_without_rows_among_others_is_noted_and_none_with_rows_is_an_error() -> None:
    (note,) = check_all({"a.jsonl": GOOD_LINE, "b.jsonl": "", "c.csv": "text,label\n"})
    assert (note.level, note.code, note.lines) == ("warning", "FileNote", ("b.jsonl", "c.csv"))
    assert (
        "s3://data/b.jsonl: it holds no rows. The same applies to 1 more file of dataset.train (3 files)."
        in note.message
    )
    assert [finding.code for finding in check_all({"a.jsonl": "", "b.jsonl": ""})] == ["NoRows"]


def test_columns_are_looked_for_in_every_file() -> None:
    files = {"a.jsonl": GOOD_LINE, "b.csv": "body,label\nx,y\n", "c.csv": "text,queue\nx,y\n"}
    (error,) = check_all(files)
    assert (error.code, error.count) == ("ColumnsMissing", 2)
    assert "dataset.columns: s3://data/b.csv has no column 'text'; it has body, label." in error.message
    assert error.lines == (
        "b.csv: has no column 'text'; it has body, label",
        "c.csv: has no column 'label'; it has queue, text",
    )


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_read() -> None:
    (error,) = check_all({"a.jsonl": "[1]", "b.jsonl": GOOD_LINE, "c.csv": "text,text\n"})
    assert (error.code, error.count) == ("DataCorrupt", 2)
    assert "s3://data/a.jsonl cannot be read: it is one JSON array" in error.message
    assert [line.split(":")[0] for line in error.lines] == ["a.jsonl", "c.csv"]
    assert len(source({"a.jsonl": "[1]", "b.jsonl": GOOD_LINE}).usable) == 1


def test_a_file_whose_end_cannot_be_read_is_an_error_whatever_came_before() -> None:
    def broken() -> OpenedFile:
        def rows() -> Iterator[Row]:
            yield Row(1, {"text": "a", "label": "b"})
            raise FileFaultError("its gzip is truncated")

        return OpenedFile(rows(), (), ())

    read_to_there = read_source("s3://data/a.gz", [SourceFile("s3://data/a.gz", "a.gz", broken)])
    (error,) = data_checks.check_source(read_to_there, absent, 0.5)
    assert (error.code, error.lines) == ("DataCorrupt", ())
    assert error.message == "s3://data/a.gz cannot be read: its gzip is truncated."


def test_rows_whose_text_is_held_out_are_left_out_of_training() -> None:
    stay, left_out = data_checks.separate_overlap(
        rows(("A  cat", "x"), ("a dog", "x")), [rows(("a CAT", "y"))], GROUP_BY_KEY
    )
    assert [row.text for row in stay.first(9)] == ["a dog"]
    assert [row.text for row in left_out.first(9)] == ["A  cat"]


def test_rows_that_repeat_another_are_counted() -> None:
    (found,) = data_checks.report_duplicates(
        rows(("a", "x"), ("A", "y"), ("b", "x"), ("b", "x"), ("c", "x")), "s3://d/f"
    )
    assert (found.code, found.count) == ("Duplicates", 2)
    assert found.lines == ("1, 2: same text", "3, 4: same text")


def test_few_test_rows_are_said_to_tell_little() -> None:
    assert [finding.code for finding in data_checks.check_test_rows(99)] == ["FewTestRows"]
    assert data_checks.check_test_rows(100) == []


def test_reasons_of_bad_rows_are_counted_without_their_numbers_and_only_so_many() -> None:
    bad = source_reader.BadRows()
    for line in range(200):
        bad.add(BadRow(line, f"is not JSON (Expecting value: character {line})"))
    assert dict(bad.reasons) == {"is not JSON (Expecting value: character …)": 200}
    for line in range(100):
        bad.add(BadRow(line, "x" * line))
    assert len(bad.reasons) == source_reader.MAX_REASONS + 1
    assert (sum(bad.reasons.values()), bad.count, len(bad.first)) == (300, 300, 100)


def test_names_of_columns_are_kept_up_to_a_limit() -> None:
    text = "".join(
        f'{{"text": "a", "label": "b", "own {n}": 1}}\n' for n in range(source_reader.MAX_COLUMNS * 2)
    )
    (file,) = source({"a.jsonl": text}).files
    assert len(file.columns) <= source_reader.MAX_COLUMNS + 100
    assert file.columns["text"] == source_reader.MAX_COLUMNS * 2
