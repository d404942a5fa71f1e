"""PURE: numbers the rows of all files of a split, and finds the file and line of a number."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Self

from pydantic import NonNegativeInt

from finetune_trainer.contract import Model


class FileSpan(Model):
    """One file of a split, in the order in which they are read."""

    file: str
    """Path below the folder that all files of the split share."""
    before: NonNegativeInt
    """Number of the last row before this file; its line 1 is row `before + 1`."""


ONE_FILE = (FileSpan(file="", before=0),)
"""All rows are of one file, whose name does not matter."""


class Line(int):
    """Number of a row; as a text it is its line, in a split of several files `part-2.csv:17`."""

    spans: Sequence[FileSpan]

    @classmethod
    def of(cls, number: int, spans: Sequence[FileSpan]) -> Self:
        """The row of this number."""
        line = cls(number)
        line.spans = spans
        return line

    def __str__(self) -> str:
        file, line = location(int(self), self.spans)
        return f"{file}:{line}" if len(self.spans) > 1 else str(line)


def location(number: int, spans: Sequence[FileSpan]) -> tuple[str, int]:
    """File and 1-based line of a row."""
    span = spans[bisect_left(spans, number, key=lambda span: span.before) - 1]
    return span.file, number - span.before
