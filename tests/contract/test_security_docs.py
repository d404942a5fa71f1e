"""The pages about security name tests that exist, and files that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs/security").glob("*.md")),
    *(ROOT / name for name in ("SECURITY.md", "CHANGELOG.md", "docs/support.md")),
]


@cache
def functions(path: Path) -> set[str]:
    """Names of the functions of a module."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def missing_tests(text: str) -> list[str]:
    """Tests that a text names and that do not exist."""
    return [
        f"{path}::{name}"
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
        if not (ROOT / path).exists() or name not in functions(ROOT / path)
    ]


def missing_files(page: Path, text: str) -> list[str]:
    """Files and headings that a text links to and that do not exist."""
    missing = []
    for link, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", text):
        target = page.parent / link if link else page
        if not target.exists() or (heading and heading not in headings(target.read_text())):
            missing.append(f"{link}#{heading}")
    return missing


def headings(text: str) -> set[str]:
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_tests_and_files_that_exist(page: Path) -> None:
    text = page.read_text()
    assert missing_tests(text) == []
    assert missing_files(page, text) == []


def test_every_attack_has_a_test() -> None:
    text = (ROOT / "docs/security/threat-model.md").read_text()
    rows = [line for line in text.splitlines() if re.search(r"\([STRIDE](, [STRIDE])*\) \|", line)]
    assert len(rows) > 30
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+` ", row + " ")] == []


def test_a_missing_test_is_found() -> None:
    assert missing_tests("`tests/contract/test_security_docs.py::test_that_nobody_wrote`") != []
    assert missing_tests("`tests/nowhere.py::test_x`") == ["tests/nowhere.py::test_x"]
    assert missing_files(PAGES[0], "[x](nowhere.md) [y](README.md#nothing)") == [
        "nowhere.md#",
        "README.md#nothing",
    ]
