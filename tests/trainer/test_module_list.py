"""docs/architecture/trainer.md lists every module of the trainer with the first line of its docstring.

`FINETUNE_REGENERATE=1 pytest tests/trainer/test_module_list.py` writes the list.
"""

import ast
import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "trainer/finetune_trainer"
PAGE = ROOT / "docs/architecture/trainer.md"
HEAD = """# The modules of the trainer

The list is generated from the docstrings of the modules (`tests/trainer/test_module_list.py`). Paths are
relative to `trainer/finetune_trainer/`. [README.md](README.md#rules) shows which package may import which.

| module | content |
|---|---|
"""


def summary(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text()))
    assert text, f"{module} has no docstring"
    return text.splitlines()[0]


def test_the_list_of_modules_is_fresh() -> None:
    modules = sorted(TRAINER.rglob("*.py"), key=lambda path: path.relative_to(TRAINER).parts)
    lines = [f"| `{path.relative_to(TRAINER).as_posix()}` | {summary(path)} |\n" for path in modules]
    page = HEAD + "".join(lines)
    if os.environ.get("FINETUNE_REGENERATE"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page
