"""PURE: converts labels to canonical form, which is the same in every file format."""

import math
import re
import unicodedata
from typing import Any

from finetune_trainer.data.texts import normalise

_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
"""Soft hyphen, zero-width space, word joiner and byte order mark, which are removed everywhere."""
_EDGES = re.compile(r"\A[\s\u200c-\u200f]+|[\s\u200c-\u200f]+\Z")
"""Joiners and direction marks, which are removed at the ends, because they have a meaning between letters."""
_WHOLE = re.compile(r"([+-]?(?:0|[1-9][0-9]*))\.0+")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?")
_MISSING = frozenset({"nan", "NaN", "<NA>"})
"""Texts that numpy, JSON writers and pandas write for a missing label."""
_LOOK_ALIKES = str.maketrans("авекмнорстухіјѕαβεζηικμνορτυχ", "abekmhopctyxijsabezhikmnoptyx")
"""Cyrillic and Greek letters whose lower-case or upper-case form looks like a Latin letter."""
_EXACT = 2**53
"""float64 represents smaller integers exactly."""


def canonicalise(value: Any) -> str:
    """Converts a label to the name of its class; empty for a missing label.

    Strings are converted to Unicode NFC, without white space at the ends and without zero-width characters.
    Whole numbers are written without a decimal point (`1.0` is `1`), and booleans as in JSON (`true`). CSV
    has no types, so strings that contain a number or a boolean are converted in the same way: `1.0` is `1`,
    and `True` and `TRUE` are `true`. None and NaN are missing labels.

    Args:
        value: a string, a number, a boolean or None.

    Raises:
        ValueError: the label is an infinite number.
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
            return _canonicalise_text(value)
        case _:
            return str(value)


def _canonicalise_text(value: str) -> str:
    text = _EDGES.sub("", _INVISIBLE.sub("", unicodedata.normalize("NFC", value)))
    if text in _MISSING:
        return ""
    if whole := _WHOLE.fullmatch(text):
        return str(int(whole[1])) if len(whole[1]) < len(str(_EXACT)) else text
    lower = text.lower()
    return lower if lower in {"true", "false"} else text


def fold_label(label: str) -> str:
    """Converts a label to a form without letter case, character width, spaces, alphabet and number format.

    The letters of alphabets that look alike become equal: the Latin a, the Cyrillic a and the Greek alpha.
    """
    text = normalise(label).translate(_LOOK_ALIKES)
    number = len(text) < len(str(_EXACT)) and _NUMBER.fullmatch(text)
    return repr(float(text.replace(",", "."))) if number else text
