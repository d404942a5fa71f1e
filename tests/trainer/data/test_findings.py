"""docs/reasons.md lists every finding of the data report."""

import re
from pathlib import Path

import finetune_trainer

ROOT = Path(__file__).parents[3]
SOURCES = Path(finetune_trainer.__file__).parent
CODE = re.compile(r'(?:code=|\bwarning\(\s*|_error\()"([A-Z]\w+)"')


def test_every_finding_is_documented() -> None:
    codes = {code for path in SOURCES.rglob("*.py") for code in CODE.findall(path.read_text())}
    assert {"ColumnsUnused", "FileNote", "LabelForms", "LastAnswerOnly", "SmallClass", "NoRows"} <= codes
    document = (ROOT / "docs" / "reasons.md").read_text()
    assert sorted(code for code in codes if f"`{code}`" not in document) == []
