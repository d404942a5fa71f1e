"""The pages on the architecture name modules and functions that exist."""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "operator" / "finetune_operator"
PAGES = ROOT / "docs" / "architecture"
TREE = re.compile(r"```text\noperator/finetune_operator/\n(.*?)```", re.DOTALL)
NAME = re.compile(r"`((?:api|planning|rendering|runtime|names|objects|settings|__main__)(?:\.\w+)+)`")


def names() -> list[str]:
    text = (PAGES / "life-of-a-job.md").read_text() + (PAGES / "README.md").read_text()
    return sorted({name for name in NAME.findall(text) if not name.endswith(".py")})


def resolve(name: str) -> Any:
    """Imports the longest module of a dotted name, then reads the attributes."""
    found: Any = importlib.import_module("finetune_operator")
    for part in name.split("."):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            found = importlib.import_module(f"{found.__name__}.{part}")
        else:
            found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", names())
def test_a_name_on_the_pages_exists(name: str) -> None:
    resolve(name)


def test_a_name_that_does_not_exist_is_found() -> None:
    with pytest.raises(ImportError):
        resolve("planning.plans.plan")
    with pytest.raises(AttributeError):
        resolve("planning.plan.plan.nothing")


def test_the_tree_lists_every_module_once_and_says_what_it_is() -> None:
    tree = TREE.search((PAGES / "README.md").read_text())
    assert tree
    listed, folders = [], [SOURCE]
    for line in tree[1].splitlines():
        name, _, text = line.strip().partition(" ")
        assert text.strip(), f"{name} has no description"
        del folders[(len(line) - len(line.lstrip())) // 2 + 1 :]
        if name.endswith("/"):
            folders.append(folders[-1] / name)
        else:
            listed.append(folders[-1] / name)
    assert sorted(listed) == sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
