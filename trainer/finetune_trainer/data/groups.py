"""PURE: finds equal values of an array by sorting, with 16 bytes for each value."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """The places of equal values."""

    order: Places
    """Places of all values, those of equal values together and ascending."""
    starts: Places
    """Where in `order` each group begins, then the number of values; length groups + 1."""

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
    def sizes(self) -> Places:
        """Values of each group."""
        return np.diff(self.starts)

    @property
    def firsts(self) -> Places:
        """The smallest place of each group."""
        return self.order[self.starts[:-1]]

    def mixed(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which of the groups have different values in another array; shape [groups]."""
        if not len(self):
            return np.zeros(0, np.bool_)
        ordered = values[self.order]
        lowest, highest = (what.reduceat(ordered, self.starts[:-1]) for what in (np.minimum, np.maximum))
        different: npt.NDArray[np.bool_] = lowest != highest
        return different

    def listed(self, chosen: npt.NDArray[np.bool_], most: int) -> list[list[int]]:
        """The places of the chosen groups, in the order of their first places, `most` groups at most."""
        numbers = np.flatnonzero(chosen)
        numbers = numbers[np.argsort(self.firsts[numbers], kind="stable")[:most]]
        return [self.order[self.starts[number] : self.starts[number + 1]].tolist() for number in numbers]
