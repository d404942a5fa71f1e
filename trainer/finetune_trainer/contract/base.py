"""Documents, identifiers and texts of the contract."""

import unicodedata
from functools import partial
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
)
from pydantic.alias_generators import to_camel

CONTRACT_VERSION = "1.0"


_ACTING = frozenset({"Cc", "Cf", "Zl", "Zp", "Co", "Cs"})
"""Unicode categories of characters that terminals act on, or that show nothing: control, format (such as the
marks that turn the direction of writing), line and paragraph separators, private use, surrogates."""


class Model(BaseModel):
    """A frozen document with camelCase keys that refuses what it does not know."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        frozen=True,
        extra="forbid",
    )


class ContractError(ValueError):
    """A document of the other side that cannot be understood; the text says why."""


def acts_on_terminals(letter: str) -> bool:
    """Whether a terminal does something else with a character than to show it."""
    return not letter.isprintable() and unicodedata.category(letter) in _ACTING


def printable(text: str, keep: str = "") -> str:
    r"""A text of foreign origin that can be shown in a terminal.

    Args:
        text: any.
        keep: characters that stay as they are, such as line ends.

    Returns:
        The text with every character that terminals act on as its escape, such as `\x1b` or `\u202e`.
    """
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode()
        if letter not in keep and acts_on_terminals(letter)
        else letter
        for letter in text
    )


def _shown(text: str, at_most: int) -> str:
    return printable(text)[:at_most]


Message = Annotated[str, Field(max_length=1024), AfterValidator(partial(_shown, at_most=1024))]
"""A sentence or two for people, escaped for terminals."""


Hint = Annotated[str, Field(max_length=512), AfterValidator(partial(_shown, at_most=512))]
"""What the reader can do, escaped for terminals."""


Place = Annotated[str, Field(max_length=128), AfterValidator(partial(_shown, at_most=128))]
"""Where in the program a failure arose, such as `training/loop.py:212`, or what the rank was doing; escaped
for terminals."""


Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


Uri = Annotated[str, Field(max_length=1024)]


Reason = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]{0,63}$")]


def speaks(version: str) -> bool:
    """Whether a document of this contract version can be understood: the major version is the same."""
    return version.partition(".")[0] == CONTRACT_VERSION.partition(".")[0]
