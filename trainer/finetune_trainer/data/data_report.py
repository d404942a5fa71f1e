"""PURE: the figures of the data report: classes, lengths, what was cut."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.example import Encoding, Example
from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.sources import DataFile

_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_PERCENTILES = (50, 90, 95, 99, 100)
_LABELS = 1000
"""The report names so many classes at most, the largest ones."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of each row before truncation, special tokens included."""

    array: npt.NDArray[np.int64]

    @classmethod
    def of(cls, encoded: Sequence[Encoding]) -> Self:
        """The lengths of encoded rows."""
        return cls(np.array([len(row.ids) for row in encoded], dtype=np.int64))

    def beyond(self, limit: int) -> tuple[int, int]:
        """Rows longer than the limit, and the tokens by which they are."""
        over = np.maximum(self.array - limit, 0)
        return int((over > 0).sum()), int(over.sum())

    def figures(self, limit: int) -> dict[str, Any]:
        """Histogram, percentiles and what a limit cuts off."""
        counts, _ = np.histogram(self.array, bins=[*_EDGES, np.iinfo(np.int64).max])
        rows, tokens = self.beyond(limit)
        return {
            "histogram": dict(zip((f"{edge}+" for edge in _EDGES), counts.tolist(), strict=True)),
            "percentiles": {str(p): int(np.percentile(self.array, p)) for p in _PERCENTILES},
            "tokens": int(self.array.sum()),
            "rowsCut": rows,
            "tokensCut": tokens,
        }


def document(
    splits: Mapping[SplitName, Sequence[Example]],
    files: Mapping[SplitName, Sequence[DataFile]],
    lengths: Mapping[SplitName, Lengths],
    max_length: int,
) -> dict[str, Any]:
    """The report without its findings, as JSON."""
    counts = {name: Counter(row.stratum for row in rows if row.stratum) for name, rows in splits.items()}
    largest = [label for label, _ in counts["train"].most_common(_LABELS)]
    return {
        "files": {
            name: [{"uri": file.uri, "digest": file.digest, "size": file.size} for file in split]
            for name, split in files.items()
        },
        "rows": {name: len(rows) for name, rows in splits.items()},
        "labels": {label: {name: counts[name][label] for name in counts} for label in largest},
        "maxLength": max_length,
        "lengths": {name: of.figures(max_length) for name, of in lengths.items()},
    }
