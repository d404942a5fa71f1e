"""Structured logs: each line is a JSON object and names the job."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from finetune_trainer.contract import acts_on_terminals

MAX_TEXT = 8000
"""Longer texts are cut: messages of the API server and the trainer may have any length."""
_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)


def about(**fields: Any) -> None:
    """Sets the fields of all further log lines of this task."""
    _about.set({key: value for key, value in fields.items() if value})


class JsonLines(logging.Formatter):
    """Formats time, level, logger and message, then the fields of `about`.

    Messages of the API server and the trainer may contain control characters of terminals: they are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line for any message."""
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
    """The JSON escape of a character, in UTF-16."""
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def set_up(*, verbose: bool) -> None:
    """Logs to standard error: the operator from INFO (or DEBUG), libraries from WARNING."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[out], force=True)
    logging.getLogger("finetune_operator").setLevel(logging.DEBUG if verbose else logging.INFO)
