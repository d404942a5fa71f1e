"""Rows of three real sets: text and label. One is in this repository, the others come from Debian 12."""

import gzip
import html
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from devcluster import packages

Row = tuple[str, str]
"""Text and label."""
SECTIONS = Path(__file__).parents[2] / "examples" / "data" / "debian-sections"
FEWEST = 8
"""Classes with fewer rows in the whole set are left out."""
_CATEGORIES = frozenset(
    "AudioVideo Development Education Game Graphics Network Office Science System Utility".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Rows:
    """One set, split."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]

    @property
    def labels(self) -> list[str]:
        """All labels of the training rows, sorted."""
        return sorted({label for _, label in self.train})


def debian_sections() -> Iterator[Row]:
    """Description of a package -> its section; 12 labels, nearly even."""
    for split in ("train", "test"):
        for line in (SECTIONS / f"{split}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            yield row["text"], row["label"]


def wordnet() -> Iterator[Row]:
    """Gloss of a noun or verb -> its lexicographer file; 41 labels, very uneven. Debian's wordnet-base."""
    folder = packages.unpacked("wordnet-base")
    for part in ("noun", "verb"):
        for line in (folder / f"usr/share/wordnet/data.{part}").read_text("latin-1").splitlines():
            if not line.startswith("  "):
                left, _, gloss = line.partition("|")
                yield gloss.split(";")[0].strip(), left.split()[1]


def appstream() -> Iterator[Row]:
    """Summary of an application -> its one main category; 10 labels, uneven. apt's index DEP-11."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    (index,) = Path("/var/lib/apt/lists").glob("*_bookworm_main_dep11_Components-amd64.yml.gz")
    with gzip.open(index, "rt", encoding="utf-8") as file:
        components = list(yaml.load_all(file, Loader=loader))
    for component in components:
        categories = _CATEGORIES & set(component.get("Categories", ()))
        if len(categories) == 1:
            description = re.sub(r"<[^>]+>", " ", component.get("Description", {}).get("C", ""))
            text = f"{component['Summary']['C']}. {' '.join(html.unescape(description).split())}"
            yield text, next(iter(categories))


SETS: dict[str, Callable[[], Iterator[Row]]] = {
    "debian-sections": debian_sections,
    "appstream": appstream,
    "wordnet": wordnet,
}


def drawn(name: str, train: int, validation: int, test: int, seed: int) -> Rows:
    """Rows drawn at random, so that the classes keep their frequencies; unknown labels are left out."""
    rows = sorted(set(SETS[name]()))
    random.Random(seed).shuffle(rows)  # noqa: S311 - no secret
    rows = rows[: train + validation + test]
    counts = Counter(label for _, label in rows)
    first = [row for row in rows[:train] if counts[row[1]] >= FEWEST]
    known = {label for _, label in first}
    rest = [row for row in rows[train:] if row[1] in known]
    return Rows(first, rest[:validation], rest[validation:])
