"""PURE: groups equal values of an array by sorting; needs 16 bytes of memory for each value."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """The indices of equal values."""

    order: Indices
    """Indices of all values: the indices of equal values are adjacent and ascending; shape [values]."""
    starts: Indices
    """Start of each group in `order`, followed by the number of values; shape [groups + 1]."""

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Self:
        """Groups the values of a one-dimensional array."""
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        edges = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        return cls(
            order, np.concatenate([[0], edges, [len(values)]]) if len(values) else np.zeros(1, np.int64)
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> Indices:
        """Number of values of each group, shape [groups]."""
        return np.diff(self.starts)

    @property
    def firsts(self) -> Indices:
        """The smallest index of each group, shape [groups]."""
        return self.order[self.starts[:-1]]

    def find_mixed(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Returns whether the values of another array differ within each group, shape [groups].

        Args:
            values: the other array, of the same shape as the grouped array.
        """
        if not len(self):
            return np.zeros(0, np.bool_)
        ordered = values[self.order]
        lowest, highest = (what.reduceat(ordered, self.starts[:-1]) for what in (np.minimum, np.maximum))
        different: npt.NDArray[np.bool_] = lowest != highest
        return different

    def list_members(self, chosen: npt.NDArray[np.bool_], most: int) -> list[list[int]]:
        """Returns the indices of the chosen groups, ordered by the first index of each group.

        Args:
            chosen: mask of the groups, shape [groups].
            most: maximum number of groups.
        """
        numbers = np.flatnonzero(chosen)
        numbers = numbers[np.argsort(self.firsts[numbers], kind="stable")[:most]]
        return [self.order[self.starts[number] : self.starts[number + 1]].tolist() for number in numbers]
