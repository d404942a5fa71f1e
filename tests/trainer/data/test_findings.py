"""Findings of the data report: their counts, and their documentation in docs/reasons.md."""

import re
from pathlib import Path

import pytest

import finetune_trainer
from finetune_trainer.data.findings import MAX_LISTED, warning

ROOT = Path(__file__).parents[3]
SOURCES = Path(finetune_trainer.__file__).parent
CODE = re.compile(r'(?:code=|\bwarning\(\s*|_error\()"([A-Z]\w+)"')


def test_every_finding_is_documented() -> None:
    codes = {code for path in SOURCES.rglob("*.py") for code in CODE.findall(path.read_text())}
    assert {"ColumnsUnused", "FileNote", "LabelForms", "LastAnswerOnly", "SmallClass", "NoRows"} <= codes
    document = (ROOT / "docs" / "reasons.md").read_text()
    assert sorted(code for code in codes if f"`{code}`" not in document) == []


@pytest.mark.parametrize(
    ("lines", "count", "counted"),
    [(0, None, 1), (3, None, 3), (0, 7, 7), (2, 7, 7), (MAX_LISTED + 5, None, 105)],
)
def test_a_warning_counts_its_occurrences(lines: int, count: int | None, counted: int) -> None:
    found = warning("SmallClass", "m", map(str, range(lines)), count)
    assert found.count == counted
    assert len(found.lines) == min(lines, MAX_LISTED)
