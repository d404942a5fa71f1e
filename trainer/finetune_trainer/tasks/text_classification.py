"""PURE: text classification. A row is one text and one label; classes are the labels of the training rows."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.config import Columns

_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Example:
    """A row that can be used."""

    line: int
    """1-based line in its file."""
    text: str
    label: str

    @property
    def key(self) -> str:
        """What makes two texts the same: NFKC, case folded, white space as one space."""
        return _SPACE.sub(" ", unicodedata.normalize("NFKC", self.text).casefold()).strip()


def example(line: int, values: Mapping[str, Any], columns: Columns) -> Example | str:
    """Text and label of a row, or why it has none.

    A label may be a text, a number or a truth value, written as in JSON; a text must be a text.
    """
    for column in (columns.text, columns.label):
        if column not in values:
            return f"has no {column!r}"
    text, label = values[columns.text], values[columns.label]
    if not isinstance(text, str):
        return f"{columns.text!r} is {_kind(text)}, not a text"
    if isinstance(label, list | dict):
        return f"{columns.label!r} is {_kind(label)}, not one label"
    name = "" if label is None else label if isinstance(label, str) else json.dumps(label)
    text, name = text.strip(), name.strip()
    for column, value in ((columns.text, text), (columns.label, name)):
        if not value:
            return f"{column!r} is empty"
        if "\0" in value or _SURROGATE.search(value):
            return f"{column!r} holds a NUL or half a character"
    return Example(line, text, name)


def classes(examples: Iterable[Example]) -> tuple[str, ...]:
    """All labels, in the order of their code points: the same rows in another order give the same head."""
    return tuple(sorted({example.label for example in examples}))


def _kind(value: Any) -> str:
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
