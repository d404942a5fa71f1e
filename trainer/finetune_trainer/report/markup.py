"""HTML from functions: whatever is not `Html` already is text, and is escaped. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_VOID = frozenset({"meta", "br"})
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Control characters and half characters: HTML has no place for them, UTF-8 has none for the latter."""
_LABEL = 80


class Html(str):
    """Text that is markup. Joined or cut like a text it becomes one again, and is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of the page that the table of contents names."""

    anchor: str
    title: str
    content: tuple[Html, ...]


def text(content: str) -> Html:
    """A text as markup that shows it; markup as it is."""
    return content if isinstance(content, Html) else Html(escape(_UNPRINTABLE.sub("\ufffd", content)))


def tag(name: str, /, *content: str, **attributes: str | float | None) -> Html:
    """An element. `class_` becomes class, `aria_label` aria-label; an attribute that is None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(content)}</{name}>")


def joined(content: Iterable[str]) -> Html:
    """One after the other, each escaped if it has to be."""
    return Html("".join(map(text, content)))


def foreign(content: str, most: int = _LABEL) -> Html:
    """A text from outside: cut if it is long, and whatever its script, what is around it stays in order.

    Of a short name that is cut, the pointer shows more.
    """
    if len(content) <= most:
        return tag("bdi", content)
    whole = content[: 3 * most] if most <= _LABEL else None
    return tag("bdi", content[: most - 1] + "…", title=whole)


def paragraph(*content: str) -> Html:
    """A paragraph."""
    return tag("p", *content)


def code(content: str) -> Html:
    """A name that somebody may want to copy."""
    return tag("code", content)


def prose(content: str) -> Html:
    """Our own words, in which names stand in backticks, as a paragraph."""
    parts = content.split("`")
    return paragraph(*(code(part) if turn % 2 else part for turn, part in enumerate(parts)))


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> Html:
    """A table whose first column names its rows.

    Args:
        caption: what the table shows, for people.
        head: one name a column.
        rows: one text or markup a column. What is a cell already, here and above, is taken as it is.
        kind: class of the table; `words` for columns that hold no numbers.
    """
    heads = (name if is_cell(name) else tag("th", name, scope="col") for name in head)
    lines = (tag("tr", tag("th", row[0], scope="row"), *map(_cell, row[1:])) for row in rows)
    return tag(
        "div",
        tag(
            "table",
            tag("caption", tag("span", caption)),
            tag("thead", tag("tr", *heads)),
            tag("tbody", *lines),
            class_=kind or None,
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def bar_cell(content: str, share: float) -> Html:
    """A table cell with a bar of a share from 0 to 1 beside its number."""
    return tag("td", tag("span", content), class_="bar", style=f"--share:{share:.3f}")


def bar_head(name: str) -> Html:
    """The head of a column of such cells."""
    return tag("th", name, scope="col", class_="bars")


def is_cell(content: str) -> bool:
    """Whether this is a cell of a table already."""
    return isinstance(content, Html) and content.startswith(("<td", "<th"))


def _cell(content: str) -> str:
    return content if is_cell(content) else tag("td", content)
