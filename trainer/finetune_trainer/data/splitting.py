"""PURE: draws the held-out rows by stratum and seed, with equal texts on one side."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.groups import Groups
from finetune_trainer.data.rows import Hashes

Mask = npt.NDArray[np.bool_]


def held_out(
    keys: Hashes, strata: npt.NDArray[np.int32], names: Sequence[str], share: float, seed: int
) -> Mask:
    """Which rows to hold out, shape [rows].

    Rows with the same key (the same question) stay together and count for the stratum (a class) of the first
    of them. In each stratum the groups come in the order of a hash of seed and key: a new row moves no other.
    Each gives its share, rounded by the largest remainder, and keeps at least one group.

    Args:
        keys: of all rows, in file order, shape [rows].
        strata: of all rows, numbers in `names`, shape [rows].
        names: of the strata; ties are broken by name.
        share: between 0 and 1, of all rows.
        seed: of the run.
    """
    groups = Groups.of(keys)
    firsts, sizes = groups.firsts, groups.sizes
    of = strata[firsts]
    order = np.lexsort((_ranks(keys[firsts], seed), of))
    edges = np.searchsorted(of[order], np.arange(len(names) + 1))
    members = {
        name: order[edges[number] : edges[number + 1]]
        for number, name in enumerate(names)
        if edges[number] < edges[number + 1]
    }
    wanted = _largest_remainder({name: int(sizes[groups_].sum()) for name, groups_ in members.items()}, share)
    drawn = np.zeros(len(groups), np.bool_)
    for name, groups_ in members.items():
        kept = groups_[:-1]
        drawn[kept[_fitting(sizes[kept], wanted[name])]] = True
    mask = np.zeros(len(keys), np.bool_)
    mask[groups.order] = np.repeat(drawn, sizes)
    return mask


def _fitting(sizes: npt.NDArray[np.int64], room: int) -> npt.NDArray[np.int64]:
    """Places of the sizes that are taken in their order, as long as each fits into the room that is left.

    A group of copies that is too large is passed over: it would carry the class far beyond its share.
    """
    taken = [np.zeros(0, np.int64)]
    places = np.arange(len(sizes))
    while len(places := places[sizes[places] <= room]) and room > 0:
        ends = np.cumsum(sizes[places])
        count = int(np.searchsorted(ends, room, side="right"))
        taken.append(places[:count])
        room -= int(ends[count - 1])
        places = places[count:]
    return np.concatenate(taken)


def _largest_remainder(sizes: dict[str, int], share: float) -> dict[str, int]:
    """Whole numbers that add up to the rounded share of the total, each near to its own share."""
    exact = {label: size * share for label, size in sizes.items()}
    wanted = {label: int(value) for label, value in exact.items()}
    missing = round(sum(sizes.values()) * share) - sum(wanted.values())
    by_remainder = sorted(exact, key=lambda label: (wanted[label] - exact[label], label))
    for label in by_remainder[: max(0, missing)]:
        wanted[label] += 1
    return wanted


def _ranks(keys: Hashes, seed: int) -> Hashes:
    """SplitMix64 (Steele, Lea and Flood 2014, figure 16) of each key plus a number that the seed tells."""
    state = keys + _mixed(np.array([seed], np.uint64))
    return _mixed(state)


def _mixed(state: Hashes) -> Hashes:
    mixed = state + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = mixed ^ (mixed >> np.uint64(31))
    return result
