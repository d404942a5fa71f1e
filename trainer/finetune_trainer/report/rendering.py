"""Jinja environments for the report page (HTML), the model card (Markdown), and files of other programs.

The first two escape every value. The templates of the third quote values with filters.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from finetune_trainer.report import markdown, numbers

TEMPLATES = "report/templates"
"""The templates that all tasks share. Templates are named by their path below `finetune_trainer`."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Control characters, which HTML forbids, and lone surrogates, which UTF-8 cannot encode."""
_FILTERS = {
    "measured": numbers.format_metric,
    "interval": numbers.format_interval,
    "plural": numbers.format_plural,
    "size": numbers.format_size,
    "thousands": numbers.format_count,
}


@dataclass(frozen=True)
class Section:
    """A section of the page with an entry in the table of contents.

    The macro `anchor` of `template` renders the section with `values` as keyword arguments.
    """

    anchor: str
    title: str
    template: str
    """Path of the template below the package `finetune_trainer`."""
    values: Mapping[str, object]


@cache
def html() -> Environment:
    """Returns the environment of the report page, which escapes values for HTML."""
    return _environment(autoescape=True, finalize=_printable, filters=_FILTERS)


@cache
def card() -> Environment:
    """Returns the environment of the model card.

    Autoescape is off, because Jinja escapes for HTML only; `finalize` escapes every value for Markdown.
    """

    def escaped(value: object) -> str:
        text: str = _printable(str(value))
        return text if isinstance(value, markdown.Markdown) else markdown.escape(text)

    filters = {"code": markdown.code_span, "prose": markdown.convert_prose}
    return _environment(autoescape=False, finalize=escaped, filters=filters)


@cache
def plain() -> Environment:
    """Returns the environment of YAML files, shell scripts and Modelfiles.

    The filter `quoted` writes a text in double quotes for YAML and Modelfiles; `shell` quotes for a shell.
    """
    filters = {"quoted": partial(json.dumps, ensure_ascii=False), "shell": shlex.quote}
    return _environment(autoescape=False, finalize=_printable, filters=filters)


def _environment(*, autoescape: bool, finalize: Any, filters: Mapping[str, Any]) -> Environment:
    made = Environment(
        loader=PackageLoader("finetune_trainer", "."),
        autoescape=autoescape,  # noqa: S701 - off for other formats than HTML only
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
    """Replaces unprintable characters of a text by U+FFFD.

    Other values do not change. The output of a macro, a `str` with `__html__`, does not change either.
    """
    text = isinstance(value, str) and not hasattr(value, "__html__")
    return _UNPRINTABLE.sub("\ufffd", value) if text else value
