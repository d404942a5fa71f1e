"""PURE: escapes untrusted texts for Markdown."""

import re
from collections.abc import Sequence


class Markdown(str):
    """A text that is already Markdown, which the model card does not escape."""

    __slots__ = ()


def escape(text: str) -> str:
    """Escapes a text, so that no character is markup, also in a table; white space becomes a single space."""
    flat = re.sub(r"\s+", " ", text)
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in flat)


def code_span(text: str) -> Markdown:
    """Converts a text to a code span, for a table or a paragraph.

    A code span ends at a run of as many backticks as the run that begins the span (CommonMark 0.31, section
    6.1). Backslashes have no meaning inside a code span, except before `|` in a table.
    """
    flat = re.sub(r"\s+", " ", text).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", flat)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return Markdown(f"{fence}{space}{flat}{space}{fence}")


def convert_prose(text: str) -> Markdown:
    """Converts names in backticks to code spans, and escapes the remaining text."""
    parts = text.split("`")
    return Markdown("".join(code_span(part) if turn % 2 else escape(part) for turn, part in enumerate(parts)))


def join_texts(texts: Sequence[str], most: int = 10) -> str:
    """Joins the first `most` texts, and adds the number of omitted texts."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
