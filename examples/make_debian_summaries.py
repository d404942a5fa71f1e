"""Makes the conversations of debian-summaries from the rows of debian-sections.

Usage: `python -m examples.make_debian_summaries FOLDER`. Each row is a conversation of three messages: the
task, the first paragraph of the long description of a package, and the short description of the package as
answer. The same rows give the same files.
"""

import argparse
import json
from pathlib import Path
from typing import Any

SECTIONS = Path(__file__).parent / "data" / "debian-sections"
TASK = "Summarise the package in one short line."
SHORTEST, LONGEST = 60, 160
"""Characters of a paragraph that makes a row. Longer rows would take more time to train on, without need."""
TRAIN, VALIDATION, TEST = 96, 16, 40
"""Rows of each file. The validation rows follow the training rows in the same file of debian-sections."""


def row(package: dict[str, str]) -> dict[str, Any] | None:
    """Return the conversation of a package; None if the paragraph has not the wanted length."""
    short, _, long = package["text"].partition("\n")
    paragraph = long.partition("\n")[0]
    if not SHORTEST <= len(paragraph) <= LONGEST:
        return None
    messages = [
        {"role": "system", "content": TASK},
        {"role": "user", "content": paragraph},
        {"role": "assistant", "content": short},
    ]
    return {"messages": messages, "package": package["package"]}


def rows(file: str) -> list[dict[str, Any]]:
    """Return the conversations of all packages of a file that give one, in the order of the file."""
    lines = (SECTIONS / file).read_text(encoding="utf-8").splitlines()
    return [made for line in lines if (made := row(json.loads(line)))]


def make(folder: Path, *, train: int = TRAIN, validation: int = VALIDATION, test: int = TEST) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl with these numbers of rows."""
    learnt, held_out = rows("train.jsonl"), rows("test.jsonl")
    files = {
        "train": learnt[:train],
        "validation": learnt[train : train + validation],
        "test": held_out[:test],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = "".join(json.dumps(made, ensure_ascii=False) + "\n" for made in content)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    """Make the files in the folder of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the files; it is made if missing")
    make(folder := parser.parse_args().folder)
    for file in sorted(folder.glob("*.jsonl")):
        print(f"{len(file.read_text(encoding='utf-8').splitlines())} rows in {file}")


if __name__ == "__main__":
    main()
