"""PURE: which rows count as the same question, so that no question is on both sides of a split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_trainer.data.example import Example
from finetune_trainer.data.findings import LISTED, Finding
from finetune_trainer.data.texts import normalised

MOST = 0.1
"""Share of the rows that may have the same input and still count as the same question."""
LEAST = 10
"""Rows with the same input below this number always count as the same question."""


@dataclass(frozen=True)
class Sameness:
    """What makes two rows the same question: the same input, or the same whole row for frequent inputs."""

    frequent: frozenset[str]
    """Inputs (Example.key) that are no questions, such as one prompt before each of many texts."""

    def of(self, row: Example) -> str:
        """Rows with the same value count as the same question."""
        return row.key if row.key not in self.frequent else f"{row.key}\0{whole(row)}"


KEYS = Sameness(frozenset())
"""The same input is the same question, without exception."""


def frequent(inputs: Counter[str], rows: int) -> frozenset[str]:
    """The inputs that more than MOST of the rows have, and at least LEAST rows.

    Args:
        inputs: number of rows of each input.
        rows: number of all rows.
    """
    return frozenset(text for text, count in inputs.items() if count >= LEAST and count > MOST * rows)


def whole(row: Example) -> str:
    """The whole row as Example.key has the input."""
    return row.key if row.identity == row.key else normalised(row.identity)


def sameness(train: Sequence[Example], held_out: Sequence[Sequence[Example]]) -> Sameness:
    """What counts as the same question in these rows.

    Rows with the same input are the same question, unless the input is frequent in one of the splits, or
    unless more than half of the training rows have inputs that are also held out in files of their own.
    An input whose rows are the same in whole stays a question: whole rows would tell nothing else apart.

    Args:
        train: the training rows, from which other splits may be drawn.
        held_out: the rows of each split that has files of its own.
    """
    found: set[str] = set()
    for rows in (train, *held_out):
        found |= frequent(Counter(row.key for row in rows), len(rows))
    shared = {row.key for rows in held_out for row in rows} - found
    if shared and sum(row.key in shared for row in train) * 2 > len(train):
        found |= shared
    if not found:
        return KEYS
    wholes: dict[str, set[str]] = {text: set() for text in found}
    for rows in (train, *held_out):
        for row in rows:
            if row.key in found and len(wholes[row.key]) <= 1:
                wholes[row.key].add(whole(row))
    return Sameness(frozenset(text for text in found if len(wholes[text]) > 1))


def repeated(rows: Sequence[Example], same: Sameness, home: str) -> list[Finding]:
    """Says which inputs are so frequent that only whole rows are held apart."""
    if not same.frequent:
        return []
    counts: Counter[str] = Counter()
    first: dict[str, Example] = {}
    for row in rows:
        if row.key in same.frequent:
            counts[row.key] += 1
            first.setdefault(row.key, row)
    if not counts:
        return []
    return [
        Finding(
            level="warning",
            code="PromptsRepeat",
            message=f"{counts.total():,} of {len(rows):,} rows of {home} have one of {len(counts):,} prompts"
            " that repeat too often to keep their rows together. The splits hold such rows apart as whole"
            " rows, so the same prompt may be in several splits.",
            file=home,
            count=counts.total(),
            lines=tuple(
                f"{first[text].line}: {first[text].excerpt} ({number:,} rows)"
                for text, number in counts.most_common(LISTED)
            ),
        )
    ]
