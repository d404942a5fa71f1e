"""PURE: normalises and checks the texts of a row."""

import re
import unicodedata
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"\s+")


def normalise(text: str) -> str:
    """Normalises a text for comparisons: Unicode NFKC, case folding, and a single space for white space."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def has_invalid_characters(text: str) -> bool:
    """Returns whether a text contains NUL or a lone surrogate."""
    return "\0" in text or _SURROGATE.search(text) is not None


def describe_type(value: Any) -> str:
    """Returns the type of a JSON value as a phrase for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return type(value).__name__
