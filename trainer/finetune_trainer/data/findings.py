"""The findings of the data check, and the names of the splits."""

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field

from finetune_trainer.contract import Model

SplitName = Literal["train", "validation", "test"]
LISTED = 100
"""Lines that a finding names; all are counted."""


class Finding(Model):
    """One thing that the reader should know or mend."""

    level: Literal["error", "warning"]
    code: str
    """CamelCase; of an error: the reason that Prepare fails with."""
    message: str
    """Counts, files and line numbers, no value of a row: it goes to logs and to the status of the job."""
    file: str = ""
    count: int = 0
    """How often."""
    lines: Annotated[tuple[str, ...], Field(max_length=LISTED)] = ()
    """`<line>: <what>` for the first of them; the report alone shows them, and they may quote rows."""


def warning(code: str, message: str, lines: Iterable[str] = ()) -> Finding:
    """A finding about all rows together."""
    return Finding(level="warning", code=code, message=message, lines=tuple(islice(lines, LISTED)))
