"""PURE: the canonical form of a label: one name for the same class in every file format."""

import math
import re
import unicodedata
from typing import Any

from finetune_trainer.data.texts import normalise

_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
"""Soft hyphen, zero-width space, word joiner and byte order mark mean nothing anywhere in a label."""
_EDGES = re.compile(r"\A[\s\u200c-\u200f]+|[\s\u200c-\u200f]+\Z")
"""Joiners and marks of direction mean something between letters only."""
_WHOLE = re.compile(r"([+-]?(?:0|[1-9][0-9]*))\.0+")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?")
_MISSING = frozenset({"nan", "NaN", "<NA>"})
"""What numpy, JSON writers and pandas write as a text for a missing label."""
_EXACT = 2**53
"""From here on a float64 is no longer an exact whole number."""


def canonical(value: Any) -> str:
    """The name of the class that a label names; empty for a missing label.

    A text gets Unicode's form NFC, and loses white space at its ends and characters without width. A number
    without a fraction is written without a point (`1.0` is `1`), and a truth value as in JSON (`true`). CSV
    has no types, so that a text which writes a number or a truth value counts as one: `1.0` is `1`, and
    `True` and `TRUE` are `true`. None and NaN are missing labels.

    Args:
        value: a text, a number, a truth value or None.

    Raises:
        ValueError: an infinite number.
    """
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            if math.isinf(value):
                raise ValueError("an infinite number")
            if math.isnan(value):
                return ""
            return f"{value + 0.0:.0f}" if value.is_integer() and abs(value) < _EXACT else repr(value)
        case str():
            return _of_text(value)
        case _:
            return str(value)


def _of_text(value: str) -> str:
    text = _EDGES.sub("", _INVISIBLE.sub("", unicodedata.normalize("NFC", value)))
    if text in _MISSING:
        return ""
    if whole := _WHOLE.fullmatch(text):
        return str(int(whole[1])) if len(whole[1]) < len(str(_EXACT)) else text
    lower = text.lower()
    return lower if lower in {"true", "false"} else text


def look(label: str) -> str:
    """A form that labels share which differ only in letter case, width, spaces or the format of a number."""
    text = normalise(label)
    number = len(text) < len(str(_EXACT)) and _NUMBER.fullmatch(text)
    return repr(float(text.replace(",", "."))) if number else text
