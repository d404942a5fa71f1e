"""Parses the JSON of a Kubernetes list piece by piece, so that a long list does not block the event loop."""

import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def pieces(text: str) -> Iterator[tuple[str, Any]]:
    """Each item of the list as `("items", item)`, and each other field of the list with its key.

    Raises:
        ValueError: the text is not a JSON object.
    """
    at, more = _open(text, 0, "{}")
    while more:
        key, at = _value(text, at)
        at = _expect(text, at, ":")
        if key != "items" or not text.startswith("[", _skip(text, at)):
            value, at = _value(text, at)
            if value is not None:
                yield key, value
        else:
            at, another = _open(text, at, "[]")
            while another:
                item, at = _value(text, at)
                yield "items", item
                at, another = _next(text, at, "]")
        at, more = _next(text, at, "}")


def _value(text: str, at: int) -> tuple[Any, int]:
    return _DECODER.raw_decode(text, _skip(text, at))


def _open(text: str, at: int, brackets: str) -> tuple[int, bool]:
    """The position after an opening bracket (or an empty pair), and whether a value follows."""
    at = _skip(text, _expect(text, at, brackets[0]))
    return (at + 1, False) if text.startswith(brackets[1], at) else (at, True)


def _next(text: str, at: int, closing: str) -> tuple[int, bool]:
    """The position after a comma or the closing bracket, and whether there was a comma."""
    at = _skip(text, at)
    if text.startswith(",", at):
        return at + 1, True
    return _expect(text, at, closing), False


def _expect(text: str, at: int, character: str) -> int:
    at = _skip(text, at)
    if not text.startswith(character, at):
        raise json.JSONDecodeError(f"Expecting {character!r}", text[at : at + 20], 0)
    return at + 1


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
