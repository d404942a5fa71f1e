"""The findings of the data check, and the names of the splits."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

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
    count: PositiveInt = 1
    """Number of occurrences, such as rows, files or classes; 1 for a finding about all rows together."""
    lines: Annotated[tuple[str, ...], Field(max_length=MAX_LISTED)] = ()
    """`<line>: <text>` for the first occurrences. The lines can contain row data; only the report shows
    them."""


def warning(code: str, message: str, lines: Iterable[str] = (), count: int | None = None) -> Finding:
    """Returns a warning that is not about single files.

    Args:
        code: code in CamelCase.
        message: message without row data.
        lines: one line for each occurrence; the finding lists the first MAX_LISTED lines.
        count: number of occurrences; by default the number of lines, or 1 without lines.
    """
    listed = tuple(lines)
    return Finding(
        level="warning",
        code=code,
        message=message,
        count=count or len(listed) or 1,
        lines=listed[:MAX_LISTED],
    )
