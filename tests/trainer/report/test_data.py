from typing import Any

import pytest

from finetune_trainer.report.data import section
from tests.trainer.report import reading
from tests.trainer.report.reading import read, texts


def shown(document: Any) -> str:
    return reading.shown(section(document))


@pytest.mark.parametrize("document", [None, "junk", {"findings": "none"}, {"rows": {"train": "many"}}, [1]])
def test_a_report_that_is_gone_or_damaged_spoils_nothing(document: object) -> None:
    assert "no longer exists" in shown(document)


def test_no_findings_are_good_news() -> None:
    assert "found nothing to correct" in shown({"findings": []})


def test_findings_name_their_lines_and_how_many_more(doctor: dict[str, Any]) -> None:
    markup = shown(doctor)
    assert texts(markup, "strong") == ["BadRows", "Overlap"]
    items = texts(markup, "li")
    assert "101: 'text' is empty" in items
    assert "14: the printer on floor 14 is out of paper" in items
    assert "and 12 more" in items
    assert "15: the printer" not in markup


def test_rows_lengths_and_classes_are_shown(doctor: dict[str, Any]) -> None:
    markup = shown(doctor)
    rows = texts(markup, "tr")
    assert "rows9,6001,000400" in rows
    assert "tokens cut off21,250 (6.1%)21,250 (6.1%)21,250 (6.1%)" in rows
    assert "a9104" in rows
    assert len([e for e in read(markup) if e.name == "rect"]) == 7, "empty bins at the end are left out"


def test_one_file_or_several_files_of_a_split_are_listed(doctor: dict[str, Any]) -> None:
    (one,) = doctor["files"]["train"]
    several = {**doctor, "files": {"train": [one, {**one, "uri": "s3://data/more.jsonl"}]}}
    assert "s3://data/more.jsonl" in shown(several)
    assert "1.2 MB" in shown(doctor)
    many = {
        **doctor,
        "files": {"train": [{**one, "uri": f"s3://data/{number}.jsonl"} for number in range(23)]},
    }
    assert "s3://data/19.jsonl" in shown(many)
    assert "s3://data/20.jsonl" not in shown(many)
    assert "report.json lists the other 3 files." in shown(many)


def test_thousands_of_findings_and_classes_are_bounded(doctor: dict[str, Any]) -> None:
    finding = {**doctor["findings"][1], "message": "<" * 5000, "lines": ["&" * 5000] * 100, "count": 10**6}
    labels = {f"class {number}": {"train": 3} for number in range(1000)}
    markup = shown({**doctor, "findings": [finding] * 500, "labels": labels})
    assert len(markup) < 300_000
    assert "report.json has 488 more findings." in markup
    assert "the 20 largest of 1,000" in markup


def test_what_became_of_every_row_is_shown_and_adds_up(doctor: dict[str, Any]) -> None:
    account = {
        "read": 11_114,
        "leftOut": {"BadRows": 112, "Overlap": 2},
        "badRowReasons": {"'text' is empty": 100, "is not JSON <b>": 12},
        "repeated": 5,
        "columns": 7,
        "columnsUsed": 2,
        "classes": 3,
        "classesLearnt": 3,
    }
    rows = texts(shown({**doctor, "account": account}), "tr")
    assert "rows in all files11,114" in rows
    assert [row for row in rows if row.startswith("left out")] == [
        "left out: BadRows112",
        "left out: Overlap2",
    ]
    assert "of these bad rows: is not JSON <b>12" in rows
    assert "classes learnt, of all classes3 of 3" in rows
    assert sum(doctor["rows"].values()) + sum(account["leftOut"].values()) == account["read"]  # type: ignore[attr-defined]
