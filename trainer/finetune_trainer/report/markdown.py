"""Text from outside inside Markdown, and lists of it. Pure."""

from collections.abc import Sequence


def cell(text: str) -> str:
    """A text from outside, safe inside a Markdown table: one line, nothing that is markup."""
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in flat)


def listed(texts: Sequence[str], most: int = 10) -> str:
    """The first of them, and how many there are more."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
