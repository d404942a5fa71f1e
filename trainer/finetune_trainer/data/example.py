"""The interface of an example, which all tasks share, and the encoding of an example."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Example(Protocol):
    """A usable row."""

    @property
    def line(self) -> int:
        """Number of the row's line, 1-based and continued over the files of the split; see lines.Line."""

    @property
    def key(self) -> str:
        """Normalised input. Rows with the same key are never on both sides of a split."""

    @property
    def identity(self) -> str:
        """Normalised row. Rows with the same identity are duplicates."""

    @property
    def stratum(self) -> str:
        """Stratum for stratified splits: the class of the row, or one value for all rows."""

    @property
    def raw_stratum(self) -> str:
        """The stratum as the file writes the value; empty if the file writes the value of `stratum`."""

    @property
    def excerpt(self) -> str:
        """The start of the row, for reports."""


@dataclass(frozen=True)
class Encoding:
    """The tokens of a row."""

    ids: npt.NDArray[np.int32]
    """Token ids, special tokens included, shape [tokens]."""
    loss_mask: npt.NDArray[np.bool_] | None = None
    """Whether each token contributes to the loss, shape [tokens]; None for a task without token losses."""
    untrained: int = 0
    """Number of messages without loss because their tokens cannot be located in the rendered row."""
    fault: str = ""
    """Reason why the row has no tokens, for the report only, because the reason can contain row data."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Values of the task's own columns by name: a number, or numbers of shape [any]."""
