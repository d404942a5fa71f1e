"""The fields of a row that the data check and the splits use, for every task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Example(Protocol):
    """A row that can be used."""

    @property
    def line(self) -> int:
        """1-based line, counted on through the files of its split; as a text it names file and line."""

    @property
    def key(self) -> str:
        """What makes the inputs of two rows the same: they are never on both sides of a split."""

    @property
    def identity(self) -> str:
        """What makes a row repeat another."""

    @property
    def stratum(self) -> str:
        """Splits draw its share from each stratum: a class, or the same for all rows."""

    @property
    def written(self) -> str:
        """Another form of the stratum that the row has; empty where the row has the stratum itself."""

    @property
    def excerpt(self) -> str:
        """The start of the row, for reports."""


@dataclass(frozen=True)
class Encoding:
    """A row as the model reads it."""

    ids: npt.NDArray[np.int32]
    """Token ids, special tokens included, shape [tokens]."""
    loss_mask: npt.NDArray[np.bool_] | None = None
    """Which of the tokens are to be learnt, shape [tokens]; None where a task learns no tokens."""
    unlearnt: int = 0
    """Number of messages that were to be learnt, and are not, because they cannot be found in the row."""
    fault: str = ""
    """Why a row has no tokens; may quote the row, so that the report alone shows it."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Values of the columns that only this task has, by name: a number, or numbers of shape [any]."""
