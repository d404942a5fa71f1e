"""PURE: groups rows with the same question, because all rows of a group must stay on one side of a split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.data.findings import MAX_LISTED, Finding
from finetune_trainer.data.groups import Groups
from finetune_trainer.data.rows import Hashes, RowSubset

MAX_SHARE = 0.1
"""Maximum share of rows with the same input for which the input identifies the question."""
MIN_ROWS = 10
"""Minimum number of rows with the same input for which the input may not identify the question."""
_HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Grouping:
    """The rule that groups rows: by the input, or by the whole row if the input is frequent."""

    frequent: Hashes
    """Keys (Rows.keys) of inputs that do not identify a question, such as one prompt before many texts."""

    def of(self, part: RowSubset) -> Hashes:
        """Returns the group of each row, shape [rows of the subset]; equal values mean the same group."""
        keys = part.keys
        if not len(self.frequent):
            return keys
        both: Hashes = np.where(np.isin(keys, self.frequent), keys * _HASH_MULTIPLIER + part.row_hashes, keys)
        return both


GROUP_BY_KEY = Grouping(np.zeros(0, np.uint64))
"""Groups all rows by the input."""


def find_frequent_keys(keys: Hashes) -> Hashes:
    """Returns the keys that more than MAX_SHARE of the rows and at least MIN_ROWS rows have.

    Args:
        keys: key of each row, shape [rows].
    """
    groups = Groups.of(keys)
    often = (groups.sizes >= MIN_ROWS) & (groups.sizes > MAX_SHARE * len(keys))
    return keys[groups.firsts[often]]


def choose_grouping(train: RowSubset, held_out: Sequence[RowSubset]) -> Grouping:
    """Selects the grouping for the rows of a data set.

    Rows are grouped by the input, with two exceptions: inputs that are frequent in one of the splits, and, if
    more than half of the training rows have inputs that held-out files also have, these inputs. Rows with
    such an input are grouped by the whole row. An input whose rows are all equal remains a group.

    Args:
        train: the training rows, from which other splits can be drawn.
        held_out: the rows of each held-out split that has files.
    """
    parts = (train, *held_out)
    found = np.unique(np.concatenate([find_frequent_keys(part.keys) for part in parts]))
    shared = np.concatenate([np.zeros(0, np.uint64), *(part.keys for part in held_out)])
    shared = np.setdiff1d(shared, found)
    if len(shared) and int(np.isin(train.keys, shared).sum()) * 2 > len(train):
        found = np.union1d(found, shared)
    if not len(found):
        return GROUP_BY_KEY
    keys = np.concatenate([part.keys for part in parts])
    among = np.isin(keys, found)
    keys, row_hashes = keys[among], np.concatenate([part.row_hashes for part in parts])[among]
    groups = Groups.of(keys)
    return Grouping(keys[groups.firsts[groups.find_mixed(row_hashes)]])


def report_frequent_prompts(part: RowSubset, same: Grouping, home: str) -> list[Finding]:
    """Warns of frequent inputs, whose rows are grouped by the whole row."""
    rows = part.select(np.isin(part.keys, same.frequent))
    if not len(rows):
        return []
    groups = Groups.of(rows.keys)
    most = np.lexsort((groups.firsts, -groups.sizes))[:MAX_LISTED]
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
