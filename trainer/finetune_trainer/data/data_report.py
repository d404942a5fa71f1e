"""PURE: builds the data report: files, classes, lengths and truncation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import Account
from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.rows import RowSubset
from finetune_trainer.data.source_reader import Source
from finetune_trainer.data.sources import DataFile

_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_PERCENTILES = (50, 90, 95, 99, 100)
_MAX_COLUMNS = 100
_MAX_LABELS = 1000
"""Maximum number of classes in the report; the largest classes are reported."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of rows in tokens before truncation, special tokens included."""

    array: npt.NDArray[np.int32]
    """Number of tokens of each row, shape [rows]."""

    def count_excess(self, limit: int) -> tuple[int, int]:
        """Returns the number of rows longer than the limit, and the number of tokens beyond the limit."""
        over = np.maximum(self.array - limit, 0, dtype=np.int64)
        return int((over > 0).sum()), int(over.sum())

    def summarize(self, limit: int) -> dict[str, Any]:
        """Returns histogram, percentiles, and the number of rows and tokens beyond a limit."""
        counts, _ = np.histogram(self.array, bins=[*_EDGES, np.iinfo(np.int64).max])
        rows, tokens = self.count_excess(limit)
        return {
            "histogram": dict(zip((f"{edge}+" for edge in _EDGES), counts.tolist(), strict=True)),
            "percentiles": {
                str(p): int(np.percentile(self.array, p)) for p in _PERCENTILES if len(self.array)
            },
            "tokens": int(self.array.sum(dtype=np.int64)),
            "rowsCut": rows,
            "tokensCut": tokens,
        }


def build_report(
    splits: Mapping[SplitName, RowSubset],
    files: Mapping[SplitName, Sequence[DataFile]],
    lengths: Mapping[SplitName, Lengths],
    max_length: int,
) -> dict[str, Any]:
    """Builds the data report as a JSON document, without its findings.

    Args:
        splits: the rows of each split.
        files: the files of each split.
        lengths: the lengths of the rows of each split.
        max_length: length in tokens to which rows are truncated.
    """
    counts = {name: Counter(part.counts()) for name, part in splits.items()}
    largest = [label for label, _ in counts["train"].most_common(_MAX_LABELS) if label]
    return {
        "files": {
            name: [{"uri": file.uri, "digest": file.digest, "size": file.size} for file in split]
            for name, split in files.items()
        },
        "rows": {name: len(part) for name, part in splits.items()},
        "labels": {label: {name: counts[name][label] for name in counts} for label in largest},
        "maxLength": max_length,
        "lengths": {name: of.summarize(max_length) for name, of in lengths.items()},
    }


def build_account(
    account: Account, sources: Mapping[SplitName, Source], used: frozenset[str]
) -> dict[str, Any]:
    """Builds the part of the report that accounts for every row of the files.

    Args:
        account: counts of read, used and omitted rows.
        sources: the files of each split, with their bad rows and columns.
        used: columns that the task reads.
    """
    reasons: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    for source in sources.values():
        reasons += source.bad.reasons
        for file in source.files:
            columns += file.columns
    return {
        **account.model_dump(mode="json", by_alias=True),
        "badRowReasons": dict(reasons.most_common()),
        "columnNames": {name: name in used for name, _ in columns.most_common(_MAX_COLUMNS)},
    }
