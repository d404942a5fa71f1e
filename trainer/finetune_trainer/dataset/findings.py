"""What the data doctor has to say, and the splits it speaks of."""

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
    file: str = ""
    count: int = 0
    """How often."""
    lines: Annotated[tuple[str, ...], Field(max_length=LISTED)] = ()
    """`<line>: <what>` for the first of them."""


def warning(code: str, message: str) -> Finding:
    """A finding about all rows together."""
    return Finding(level="warning", code=code, message=message)
