"""The base class of all documents of the contract, and the types of identifiers and texts."""

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
"""Version of the documents that this package writes: major.minor."""


_ACTING = frozenset({"Cc", "Cf", "Zl", "Zp", "Co", "Cs"})
"""Unicode categories of characters that control terminals or are invisible: control, format (such as marks
that change the direction of writing), line and paragraph separators, private use, surrogates."""


class Model(BaseModel):
    """The base class of all documents: immutable, camelCase keys in JSON, unknown keys are an error."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        frozen=True,
        extra="forbid",
    )


class ContractError(ValueError):
    """A document of the operator or trainer cannot be read; the text gives the cause."""


def acts_on_terminals(letter: str) -> bool:
    """Whether a character controls a terminal or is invisible.

    Args:
        letter: one character.
    """
    return not letter.isprintable() and unicodedata.category(letter) in _ACTING


def printable(text: str, keep: str = "") -> str:
    r"""Escapes the characters of a text that control terminals or are invisible.

    Args:
        text: any text.
        keep: characters that stay unchanged, such as line ends.

    Returns:
        The text with escapes such as `\x1b` or `\u202e`.
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
"""One or two sentences for users, at most 1,024 characters, escaped for terminals."""


Hint = Annotated[str, Field(max_length=512), AfterValidator(partial(_shown, at_most=512))]
"""What the user can do, at most 512 characters, escaped for terminals."""


MAX_PLACE = 128
"""Maximum length of a place in characters."""
Place = Annotated[str, Field(max_length=MAX_PLACE), AfterValidator(partial(_shown, at_most=MAX_PLACE))]
"""Place of a failure: a line of code such as `training/loop.py:212`, or the activity of a rank; at most 128
characters, escaped for terminals."""


Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


Uri = Annotated[str, Field(max_length=1024)]


Reason = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]{0,63}$")]


def speaks(version: str) -> bool:
    """Whether this package can read documents of a contract version, that is, of the same major version.

    Args:
        version: the `contractVersion` of a document.
    """
    return version.partition(".")[0] == CONTRACT_VERSION.partition(".")[0]
