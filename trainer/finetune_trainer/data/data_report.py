"""PURE: the figures of the data report: classes, lengths, truncation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Account
from finetune_trainer.data.doctor import Source
from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.rows import Part
from finetune_trainer.data.sources import DataFile

_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_PERCENTILES = (50, 90, 95, 99, 100)
_COLUMNS = 100
_LABELS = 1000
"""The report names so many classes at most, the largest ones."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of each row before truncation, special tokens included."""

    array: npt.NDArray[np.int32]

    def beyond(self, limit: int) -> tuple[int, int]:
        """Rows longer than the limit, and the tokens by which they are."""
        over = np.maximum(self.array - limit, 0, dtype=np.int64)
        return int((over > 0).sum()), int(over.sum())

    def figures(self, limit: int) -> dict[str, Any]:
        """Histogram, percentiles and what a limit cuts off."""
        counts, _ = np.histogram(self.array, bins=[*_EDGES, np.iinfo(np.int64).max])
        rows, tokens = self.beyond(limit)
        return {
            "histogram": dict(zip((f"{edge}+" for edge in _EDGES), counts.tolist(), strict=True)),
            "percentiles": {
                str(p): int(np.percentile(self.array, p)) for p in _PERCENTILES if len(self.array)
            },
            "tokens": int(self.array.sum(dtype=np.int64)),
            "rowsCut": rows,
            "tokensCut": tokens,
        }


def document(
    splits: Mapping[SplitName, Part],
    files: Mapping[SplitName, Sequence[DataFile]],
    lengths: Mapping[SplitName, Lengths],
    max_length: int,
) -> dict[str, Any]:
    """The report without its findings, as JSON."""
    counts = {name: Counter(part.counts()) for name, part in splits.items()}
    largest = [label for label, _ in counts["train"].most_common(_LABELS) if label]
    return {
        "files": {
            name: [{"uri": file.uri, "digest": file.digest, "size": file.size} for file in split]
            for name, split in files.items()
        },
        "rows": {name: len(part) for name, part in splits.items()},
        "labels": {label: {name: counts[name][label] for name in counts} for label in largest},
        "maxLength": max_length,
        "lengths": {name: of.figures(max_length) for name, of in lengths.items()},
    }


def account_document(
    account: Account, sources: Mapping[SplitName, Source], used: frozenset[str]
) -> dict[str, Any]:
    """Where every row of the files went, with the reasons of bad rows and the names of the columns."""
    reasons: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    for source in sources.values():
        reasons += source.bad.reasons
        for file in source.files:
            columns += file.columns
    return {
        **account.model_dump(mode="json", by_alias=True),
        "badRowReasons": dict(reasons.most_common()),
        "columnNames": {name: name in used for name, _ in columns.most_common(_COLUMNS)},
    }
