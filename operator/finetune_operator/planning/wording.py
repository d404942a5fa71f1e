"""Formats numbers with nouns, and lists, for messages. Pure."""


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun, such as 1 class or 1,200 rows.

    Args:
        number: how many.
        one: the noun in the singular.
        many: the noun in the plural, where the plural is not the singular with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def join_words(parts: list[str]) -> str:
    """Joins the parts, for example `a, b and c`."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
