"""What a pod writes for people: log lines and tracebacks that quote no row and that terminals only show.

What ranks write past this, such as what native libraries print, is escaped by LogTail on its way.
"""

import logging
import sys
import threading
from types import TracebackType
from typing import TextIO

from finetune_trainer.contract import printable
from finetune_trainer.pod.errors import trace

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Lines(logging.Formatter):
    """One line for each record, then its traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging calls
        """The record as one line, escaped for terminals."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - the name that logging calls
        """The traceback, without texts that may quote rows."""
        return _shown(ei[1]).rstrip("\n") if ei[1] else ""


def set_up(stream: TextIO, who: str) -> None:
    """Sends log lines of this process, and what nobody catches, to a stream.

    Args:
        stream: standard output or standard error.
        who: stands in every line.
    """
    out = logging.StreamHandler(stream)
    out.setFormatter(Lines(f"%(asctime)s {who}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[out], force=True)
    sys.excepthook = lambda _kind, error, _frames: show(error)
    threading.excepthook = lambda told: show(told.exc_value) if told.exc_value else None
    sys.unraisablehook = lambda told: show(told.exc_value) if told.exc_value else None


def show(error: BaseException) -> None:
    """Writes the traceback of an error to standard error."""
    sys.stderr.write(_shown(error))


def _shown(error: BaseException) -> str:
    return printable(trace(error), keep="\n")
