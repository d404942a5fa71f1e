"""PURE: converts the row numbers of a split to files and lines."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Self

from pydantic import NonNegativeInt

from finetune_trainer.contract import Model


class FileSpan(Model):
    """The row numbers of one file of a split."""

    file: str
    """Path below the folder that all files of the split share."""
    before: NonNegativeInt
    """Number of the last row of the previous file. Line 1 of this file has the number `before + 1`."""


ONE_FILE = (FileSpan(file="", before=0),)
"""The span of a split with a single file."""


class Line(int):
    """Number of a row. `str()` returns the line, or `part-2.csv:17` in a split of several files."""

    spans: Sequence[FileSpan]

    @classmethod
    def of(cls, number: int, spans: Sequence[FileSpan]) -> Self:
        """Returns the line of a row number."""
        line = cls(number)
        line.spans = spans
        return line

    def __str__(self) -> str:
        file, line = locate(int(self), self.spans)
        return f"{file}:{line}" if len(self.spans) > 1 else str(line)


def locate(number: int, spans: Sequence[FileSpan]) -> tuple[str, int]:
    """Returns the file and the 1-based line of a row number."""
    span = spans[bisect_left(spans, number, key=lambda span: span.before) - 1]
    return span.file, number - span.before
