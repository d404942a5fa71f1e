"""Reads published folders with other programs: `python -m bench.readers`.

Prints a table: whether each reader gets the token ids and the logits of the product. The exit status is 1 if
a cell differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import environment
from bench.machine import this_machine
from bench.readers.models import CASES, LABELS, TEXTS, Case, Published, publish
from devcluster.places import REPOSITORY, DevclusterError, write_whole
from devcluster.progress import say, step
from finetune_trainer.models.load import silence_libraries

RESULTS = REPOSITORY / "bench/results/readers.json"
TOLERANCE = 1e-5
"""Maximum difference of a logit, relative to the largest logit if this logit is above 1."""
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Reader:
    """A program that reads a published folder."""

    name: str
    script: str
    suits: Callable[[Case], bool]
    """Whether the reader is meant for the model."""
    lock: str | None = None
    """Requirements file of the environment; None for the environment of the project."""

    def python(self) -> Path:
        """The Python of the reader's environment."""
        if self.lock is None:
            return Path(sys.executable)
        folder = _HERE / f".venv-{Path(self.lock).stem}"
        return environment.python(folder, _HERE / self.lock, self.name)


@dataclass(frozen=True)
class Cell:
    """What a reader gets from a folder."""

    case: str
    reader: str
    version: str
    difference: float | None
    """Largest difference of a logit, as in TOLERANCE; None without logits."""
    faults: tuple[str, ...]


READERS = (
    Reader("transformers 5", "read.py", lambda _case: True),
    Reader("transformers 4", "read.py", lambda _case: True, "transformers4.txt"),
    Reader("ONNX Runtime", "convert.py", lambda case: case.classifier and not case.adapter, "converters.txt"),
    Reader("gguf", "names.py", lambda case: not case.classifier and not case.adapter),
)


def main() -> int:
    """Reads, prints the table, writes the figures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.readers", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, help="default: all")
    chosen = parser.parse_args().cases
    silence_libraries()
    try:
        cells = [cell for case in CASES if case.name in chosen for cell in _read_all(case)]
    except DevclusterError as error:
        say(f"error: {error}")
        return 1
    report = {"machine": this_machine().model_dump(mode="json"), "cells": [asdict(cell) for cell in cells]}
    write_whole(RESULTS, json.dumps(report, indent=1))
    print(render(cells))
    say(f"figures: {RESULTS.relative_to(REPOSITORY)}")
    return 1 if any(cell.faults for cell in cells) else 0


def render(cells: list[Cell]) -> str:
    """Renders the table in Markdown, and the faults below."""
    versions = {cell.reader: cell.version for cell in cells if cell.version}
    readers = [reader.name for reader in READERS if reader.name in versions]
    found = {(cell.case, cell.reader): cell for cell in cells}
    head = [f"{name} ({versions[name]})" for name in readers]
    lines = [f"| model | {' | '.join(head)} |", f"|---|{'---|' * len(readers)}"]
    for case in dict.fromkeys(cell.case for cell in cells):
        row = [_render_cell(found.get((case, reader))) for reader in readers]
        lines.append(f"| {case} | {' | '.join(row)} |")
    faults = [f"* {cell.case}, {cell.reader}: {fault}" for cell in cells for fault in cell.faults]
    return "\n".join([*lines, "", *faults])


def _render_cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell.faults:
        return "differs"
    return "names" if cell.difference is None else f"equal ({cell.difference:.0e})"


def _read_all(case: Case) -> list[Cell]:
    with tempfile.TemporaryDirectory() as scratch, step(case.name):
        home = Path(scratch)
        published = publish(case, home)
        return [_read(reader, case, published, home) for reader in READERS if reader.suits(case)]


def _read(reader: Reader, case: Case, published: Published, home: Path) -> Cell:
    asked, result = home / "asked.json", home / f"{reader.lock}-{reader.script}.json"
    base = str(published.base) if case.adapter else None
    values = {"folder": str(published.folder), "base": base, "classifier": case.classifier, "texts": TEXTS}
    asked.write_text(json.dumps({**values, "result": str(result)}))
    ended = subprocess.run(  # noqa: S603 - scripts of this folder
        [reader.python(), _HERE / reader.script, asked],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        last = ended.stderr.strip().splitlines() or ["no message"]
        return Cell(case.name, reader.name, "", None, (f"fails: {last[-1][:300]}",))
    found = json.loads(result.read_text())
    difference, faults = (
        compare_names(found, published) if "special" in found else compare(found, case, published)
    )
    return Cell(case.name, reader.name, found["version"], difference, tuple(faults))


def compare(found: dict[str, Any], case: Case, published: Published) -> tuple[float, list[str]]:
    """Compares token ids, class names and logits with those of the product.

    Args:
        found: the result of read.py.
        case: the model.
        published: what the product computes.

    Returns:
        The largest difference of a logit, and the faults.
    """
    faults = [
        f"other token ids of {text!r}: {found['ids'][text]}, not {ids}"
        for text, ids in published.ids.items()
        if found["ids"][text] != ids
    ]
    if case.classifier and found["labels"] != list(LABELS):
        faults.append(f"other class names: {found['labels']}")
    difference = 0.0
    for text, logits in found["logits"].items():
        expected = published.logits[text]
        given = expected.new_tensor(logits)
        if given.shape != expected.shape:
            faults.append(f"logits of another shape for {text!r}")
            continue
        apart = float((given - expected).abs().max()) / max(1.0, float(expected.abs().max()))
        difference = max(difference, apart)
        # NaN is no number that max() keeps.
        if not apart <= TOLERANCE:
            faults.append(f"other logits for {text!r}: they differ by {apart:.1e}")
    return difference, faults


def compare_names(found: dict[str, Any], published: Published) -> tuple[None, list[str]]:
    """Compares special tokens with those of config and tokenizer, and lists weights without a name in GGUF.

    Args:
        found: the result of names.py.
        published: the folders.
    """
    config = json.loads((published.folder / "config.json").read_text())
    faults = [f"no name in GGUF for {name}" for name in found["missing"]]
    faults += [
        f"{kind}: {found['special'].get(kind)}, not {config[f'{kind}_token_id']}"
        for kind in ("bos", "eos")
        if found["special"].get(kind) != config[f"{kind}_token_id"]
    ]
    if not found["merges"]:
        faults.append("no merges")
    return None, faults


if __name__ == "__main__":
    sys.exit(main())
