"""Formats numbers with nouns, durations, and lists, for messages. Pure."""


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun, such as 1 class or 1,200 rows.

    Args:
        number: how many.
        one: the noun in the singular.
        many: the noun in the plural, where the plural is not the singular with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """A duration in the unit that fits, such as 45 s, 10 min or 3.5 h."""
    minute, hour = 60, 3600
    if seconds < minute:
        return f"{seconds:.0f} s"
    if seconds < hour:
        return f"{round(seconds / minute)} min"
    return f"{seconds / hour:.1f} h"


def join_words(parts: list[str]) -> str:
    """Joins the parts, for example `a, b and c`."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
