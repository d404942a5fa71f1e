"""Escapes texts from outside for Markdown. Pure."""

import re
from collections.abc import Sequence


class Markdown(str):
    """A text that is Markdown already, so the model card takes the text as it is."""

    __slots__ = ()


def escaped(text: str) -> str:
    """A text on one line in which no character is markup, also inside a table."""
    flat = re.sub(r"\s+", " ", text)
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in flat)


def code(text: str) -> Markdown:
    """A text as a code span, for a table or for a paragraph.

    Source: CommonMark 0.31, section 6.1: a code span ends at a run of as many backticks as the run that
    begins the span. Backslashes have no meaning inside a code span, except before `|` in a table.
    """
    flat = re.sub(r"\s+", " ", text).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", flat)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return Markdown(f"{fence}{space}{flat}{space}{fence}")


def prose(text: str) -> Markdown:
    """A text of the trainer: names in backticks become code spans, everything else is escaped."""
    parts = text.split("`")
    return Markdown("".join(code(part) if turn % 2 else escaped(part) for turn, part in enumerate(parts)))


def listed(texts: Sequence[str], most: int = 10) -> str:
    """The first `most` texts, and the number of texts that are left out."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
