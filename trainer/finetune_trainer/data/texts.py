"""PURE: normalizes and checks the texts of a row."""

import re
import unicodedata
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"\s+")


def normalised(text: str) -> str:
    """What makes two texts the same: NFKC, case folded, white space as one space."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def spoilt(text: str) -> bool:
    """Whether it holds a NUL or half a character."""
    return "\0" in text or _SURROGATE.search(text) is not None


def kind_of(value: Any) -> str:
    """What a JSON value is, for people."""
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
