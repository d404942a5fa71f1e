"""Structured logs: one JSON object a line, with the job that it is about."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from finetune_trainer.contract import acts_on_terminals

MAX_TEXT = 8000
"""Longer texts are cut: what others say (API server, trainer) may be of any length."""
_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)


def about(**fields: Any) -> None:
    """Says what the lines of this task are about from now on."""
    _about.set({key: value for key, value in fields.items() if value})


class JsonLines(logging.Formatter):
    """time, level, logger, message, then what the line is about.

    What API server and trainer say may hold characters that terminals act on: they are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_TEXT],
            **(_about.get() or {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-MAX_TEXT:]
        document = json.dumps(line, ensure_ascii=False, default=str)
        return "".join(_escape(letter) if acts_on_terminals(letter) else letter for letter in document)


def _escape(letter: str) -> str:
    """A character as JSON escapes it, in UTF-16."""
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def set_up(*, verbose: bool) -> None:
    """Sends the root logger to standard error; libraries speak from warnings on."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[out], force=True)
    logging.getLogger("finetune_operator").setLevel(logging.DEBUG if verbose else logging.INFO)
