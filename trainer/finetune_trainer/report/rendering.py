"""Jinja environments: HTML for the report page, Markdown for the model card. Both escape every value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from finetune_trainer.report import markdown, numbers

TEMPLATES = "report/templates"
"""The templates that all tasks share. Templates are named by their path below `finetune_trainer`."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Control characters, which HTML forbids, and lone surrogates, which UTF-8 cannot encode."""
_FILTERS = {
    "measured": numbers.measured,
    "interval": numbers.interval,
    "plural": numbers.plural,
    "size": numbers.size,
    "thousands": numbers.count,
}


@dataclass(frozen=True)
class Section:
    """A part of the page that the table of contents names.

    The macro of `template` whose name is `anchor` writes the markup and takes `values` by name.
    """

    anchor: str
    title: str
    template: str
    """Path of the template below the package `finetune_trainer`."""
    values: Mapping[str, object]


@cache
def html() -> Environment:
    """The environment of the report page. Templates contain all markup; no value is markup."""
    return _environment(autoescape=True, finalize=_printable, filters=_FILTERS)


@cache
def card() -> Environment:
    """The environment of the model card.

    Autoescape is off because Jinja escapes for HTML only; `finalize` escapes every value for Markdown.
    """

    def escaped(value: object) -> str:
        text: str = _printable(str(value))
        return text if isinstance(value, markdown.Markdown) else markdown.escaped(text)

    filters = {"code": markdown.code, "prose": markdown.prose}
    return _environment(autoescape=False, finalize=escaped, filters=filters)


def _environment(*, autoescape: bool, finalize: Any, filters: Mapping[str, Any]) -> Environment:
    made = Environment(
        loader=PackageLoader("finetune_trainer", "."),
        autoescape=autoescape,  # noqa: S701 - off for Markdown only, which `finalize` escapes
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    made.filters.update(filters)
    return made


def _printable(value: Any) -> Any:
    """A text in which U+FFFD replaces each character that no page may hold.

    Other values stay as they are. One of these is the output of a macro: a `str` that has `__html__`.
    """
    text = isinstance(value, str) and not hasattr(value, "__html__")
    return _UNPRINTABLE.sub("\ufffd", value) if text else value
