"""PURE: which rows are held out. Drawn by stratum, the same for the same seed, no text on both sides."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from finetune_trainer.data.example import Example
from finetune_trainer.data.sameness import KEYS, Sameness


def held_out(examples: Sequence[Example], share: float, seed: int, same: Sameness = KEYS) -> frozenset[int]:
    """Positions of the rows to hold out.

    Rows that are the same question stay together and count for the stratum (a class) of the first of them.
    In each stratum the groups come in the order of a hash of seed and question: a new row moves no other.
    Each stratum gives its share, rounded by the largest remainder, and keeps at least one group.

    Args:
        examples: all rows, in file order.
        share: between 0 and 1, of all rows.
        seed: of the run.
        same: tells which rows are the same question.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for position, example in enumerate(examples):
        groups[same.of(example)].append(position)
    by_class: dict[str, list[str]] = defaultdict(list)
    for key, positions in groups.items():
        by_class[examples[positions[0]].stratum].append(key)
    sizes = {label: sum(len(groups[key]) for key in keys) for label, keys in by_class.items()}
    wanted = _largest_remainder(sizes, share)
    drawn: set[int] = set()
    for label, keys in by_class.items():
        taken = 0
        for key in sorted(keys, key=lambda key: _rank(key, seed))[:-1]:
            if taken >= wanted[label]:
                break
            # A large group of copies may not carry the class far beyond its share.
            if taken + len(groups[key]) <= wanted[label]:
                drawn.update(groups[key])
                taken += len(groups[key])
    return frozenset(drawn)


def _largest_remainder(sizes: dict[str, int], share: float) -> dict[str, int]:
    """Whole numbers that add up to the rounded share of the total, each near to its own share."""
    exact = {label: size * share for label, size in sizes.items()}
    wanted = {label: int(value) for label, value in exact.items()}
    missing = round(sum(sizes.values()) * share) - sum(wanted.values())
    by_remainder = sorted(exact, key=lambda label: (wanted[label] - exact[label], label))
    for label in by_remainder[: max(0, missing)]:
        wanted[label] += 1
    return wanted


def _rank(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()
