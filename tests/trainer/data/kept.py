"""Usable rows on disk, made of examples that are in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from finetune_trainer.data.lines import ONE_FILE
from finetune_trainer.data.rows import Rows, RowWriter, Strata


@dataclass(frozen=True)
class Made:
    """Gives the examples back instead of making them of values."""

    by_line: dict[int, Any]

    def __call__(self, line: int, _values: object) -> Any:
        return self.by_line[line]


def kept(examples: Sequence[Any], names: Strata | None = None) -> Rows:
    """The examples as Rows; each has a line of its own."""
    folder = Path(mkdtemp(prefix="kept-"))
    writer = RowWriter(folder / "rows.arrow", names or Strata())
    for example in examples:
        writer.append(example, {})
    return writer.finish(ONE_FILE, Made({example.line: example for example in examples}))
