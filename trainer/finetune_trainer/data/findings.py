"""The findings of the data check, and the names of the splits."""

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field

from finetune_trainer.contract import Model

SplitName = Literal["train", "validation", "test"]
MAX_LISTED = 100
"""Maximum number of lines in a finding."""


class Finding(Model):
    """A warning or an error of the data check."""

    level: Literal["error", "warning"]
    code: str
    """Code in CamelCase. For an error, the code is the reason of the failure of Prepare."""
    message: str
    """Counts, files and line numbers, but no row data, because logs and the job's status show the message."""
    file: str = ""
    count: int = 0
    """Number of occurrences."""
    lines: Annotated[tuple[str, ...], Field(max_length=MAX_LISTED)] = ()
    """`<line>: <text>` for the first occurrences. The lines can contain row data; only the report shows
    them."""


def warning(code: str, message: str, lines: Iterable[str] = ()) -> Finding:
    """Returns a warning about all rows together, with at most MAX_LISTED lines."""
    return Finding(level="warning", code=code, message=message, lines=tuple(islice(lines, MAX_LISTED)))
