"""PURE: draws held-out rows from each stratum by seed. Rows with the same key stay on one side."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.groups import Groups
from finetune_trainer.data.rows import Hashes

Mask = npt.NDArray[np.bool_]


def draw_held_out(
    keys: Hashes, strata: npt.NDArray[np.int32], names: Sequence[str], share: float, seed: int
) -> Mask:
    """Draws the rows to hold out.

    Rows with the same key form a group, which belongs to the stratum of its first row. Within a stratum,
    groups are ordered by a hash of seed and key, so that a new row does not change the order of other rows.
    The number of rows of each stratum is rounded by the largest remainder method, and each stratum keeps at
    least one group.

    Args:
        keys: key of each row in file order, shape [rows].
        strata: number of the stratum of each row, shape [rows].
        names: names of the strata, which break ties.
        share: share of the rows to hold out, from 0 to 1.
        seed: seed of the run.

    Returns:
        Mask of the held-out rows, shape [rows].
    """
    groups = Groups.of(keys)
    firsts, sizes = groups.firsts, groups.sizes
    of = strata[firsts]
    order = np.lexsort((_hash_keys(keys[firsts], seed), of))
    edges = np.searchsorted(of[order], np.arange(len(names) + 1))
    members = {
        name: order[edges[number] : edges[number + 1]]
        for number, name in enumerate(names)
        if edges[number] < edges[number + 1]
    }
    wanted = _largest_remainder(
        {name: int(sizes[members_].sum()) for name, members_ in members.items()}, share
    )
    drawn = np.zeros(len(groups), np.bool_)
    for name, members_ in members.items():
        kept = members_[:-1]
        drawn[kept[_select_fitting(sizes[kept], wanted[name])]] = True
    mask = np.zeros(len(keys), np.bool_)
    mask[groups.order] = np.repeat(drawn, sizes)
    return mask


def _select_fitting(sizes: npt.NDArray[np.int64], room: int) -> npt.NDArray[np.int64]:
    """Selects groups in order while their sizes fit into the remaining number of rows.

    A group that does not fit is skipped, because the stratum would exceed its share.

    Args:
        sizes: rows of each group, shape [groups].
        room: maximum number of rows.

    Returns:
        Indices of the selected groups.
    """
    selected = [np.zeros(0, np.int64)]
    indices = np.arange(len(sizes))
    while len(indices := indices[sizes[indices] <= room]) and room > 0:
        ends = np.cumsum(sizes[indices])
        count = int(np.searchsorted(ends, room, side="right"))
        selected.append(indices[:count])
        room -= int(ends[count - 1])
        indices = indices[count:]
    return np.concatenate(selected)


def _largest_remainder(sizes: dict[str, int], share: float) -> dict[str, int]:
    """Rounds the share of each size by the largest remainder method.

    The results add up to the rounded share of the total.
    """
    exact = {label: size * share for label, size in sizes.items()}
    wanted = {label: int(value) for label, value in exact.items()}
    missing = round(sum(sizes.values()) * share) - sum(wanted.values())
    by_remainder = sorted(exact, key=lambda label: (wanted[label] - exact[label], label))
    for label in by_remainder[: max(0, missing)]:
        wanted[label] += 1
    return wanted


def _hash_keys(keys: Hashes, seed: int) -> Hashes:
    """Hashes each key and the seed with SplitMix64 (Steele, Lea and Flood 2014, figure 16), shape [keys]."""
    state = keys + _splitmix64(np.array([seed], np.uint64))
    return _splitmix64(state)


def _splitmix64(state: Hashes) -> Hashes:
    mixed = state + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = mixed ^ (mixed >> np.uint64(31))
    return result
