"""PURE: decides which rows are the same question, so that no question is on both sides of a split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.data.findings import LISTED, Finding
from finetune_trainer.data.groups import Groups
from finetune_trainer.data.rows import Hashes, Part

MOST = 0.1
"""Share of the rows that may have the same input and still count as the same question."""
LEAST = 10
"""Rows with the same input below this number always count as the same question."""
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Sameness:
    """What makes two rows the same question: the same input, or the same whole row for frequent inputs."""

    frequent: Hashes
    """Inputs (Rows.keys) that are no questions, such as one prompt before each of many texts."""

    def of(self, part: Part) -> Hashes:
        """Rows with the same value count as the same question; shape [rows of the part]."""
        keys = part.keys
        if not len(self.frequent):
            return keys
        both: Hashes = np.where(np.isin(keys, self.frequent), keys * _ODD + part.wholes, keys)
        return both


KEYS = Sameness(np.zeros(0, np.uint64))
"""The same input is the same question, without exception."""


def frequent(keys: Hashes) -> Hashes:
    """The inputs that more than MOST of the rows have, and at least LEAST rows.

    Args:
        keys: the input of each row.
    """
    groups = Groups.of(keys)
    often = (groups.sizes >= LEAST) & (groups.sizes > MOST * len(keys))
    return keys[groups.firsts[often]]


def sameness(train: Part, held_out: Sequence[Part]) -> Sameness:
    """What counts as the same question in these rows.

    Rows with the same input are the same question, unless the input is frequent in one of the splits, or
    unless more than half of the training rows have inputs that are also held out in files of their own.
    An input whose rows are the same in whole stays a question: whole rows would tell nothing else apart.

    Args:
        train: the training rows, from which other splits may be drawn.
        held_out: the rows of each split that has files of its own.
    """
    parts = (train, *held_out)
    found = np.unique(np.concatenate([frequent(part.keys) for part in parts]))
    shared = np.concatenate([np.zeros(0, np.uint64), *(part.keys for part in held_out)])
    shared = np.setdiff1d(shared, found)
    if len(shared) and int(np.isin(train.keys, shared).sum()) * 2 > len(train):
        found = np.union1d(found, shared)
    if not len(found):
        return KEYS
    keys = np.concatenate([part.keys for part in parts])
    among = np.isin(keys, found)
    keys, wholes = keys[among], np.concatenate([part.wholes for part in parts])[among]
    groups = Groups.of(keys)
    return Sameness(keys[groups.firsts[groups.mixed(wholes)]])


def repeated(part: Part, same: Sameness, home: str) -> list[Finding]:
    """Says which inputs are so frequent that only whole rows are held apart."""
    rows = part.where(np.isin(part.keys, same.frequent))
    if not len(rows):
        return []
    groups = Groups.of(rows.keys)
    most = np.lexsort((groups.firsts, -groups.sizes))[:LISTED]
    firsts = groups.firsts[most]
    numbers = np.sort(rows.numbers[firsts])
    examples = dict(zip(numbers.tolist(), rows.rows.examples(numbers), strict=True))
    shown = [examples[number] for number in rows.numbers[firsts].tolist()]
    return [
        Finding(
            level="warning",
            code="PromptsRepeat",
            message=f"{len(rows):,} of {len(part):,} rows of {home} have one of {len(groups):,} prompts"
            " that repeat too often to keep their rows together. The splits hold such rows apart as whole"
            " rows, so the same prompt may be in several splits.",
            file=home,
            count=len(rows),
            lines=tuple(
                f"{row.line}: {row.excerpt} ({count:,} rows)"
                for row, count in zip(shown, groups.sizes[most].tolist(), strict=True)
            ),
        )
    ]
