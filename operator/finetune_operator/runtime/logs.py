"""Structured logs: one JSON object a line, with the job that it is about."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

MAX_TEXT = 8000
"""Longer texts are cut: what others say (API server, trainer) may be of any length."""
_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)


def about(**fields: Any) -> None:
    """Says what the lines of this task are about from now on."""
    _about.set({key: value for key, value in fields.items() if value})


class JsonLines(logging.Formatter):
    """time, level, logger, message, then what the line is about."""

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
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(*, verbose: bool) -> None:
    """Sends the root logger to standard error; libraries speak from warnings on."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[out], force=True)
    logging.getLogger("finetune_operator").setLevel(logging.DEBUG if verbose else logging.INFO)
