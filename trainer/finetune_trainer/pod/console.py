"""Log lines and tracebacks of a pod: without texts that may quote rows, and escaped for terminals.

LogTail escapes output that ranks write without this module, for example the output of native libraries.
"""

import logging
import sys
import threading
from types import TracebackType
from typing import TextIO

from finetune_trainer.contract import printable
from finetune_trainer.pod.errors import trace

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LineFormatter(logging.Formatter):
    """Formats a log record as one line, followed by the traceback of its exception."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging calls
        """Formats the record as one line, escaped for terminals."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - the name that logging calls
        """Formats the traceback without texts that may quote rows."""
        return _shown(ei[1]).rstrip("\n") if ei[1] else ""


def set_up(stream: TextIO, name: str) -> None:
    """Sends the log lines of this process to a stream, and uncaught exceptions to standard error.

    Args:
        stream: standard output or standard error.
        name: name of the process, or a format of logging; part of every line.
    """
    out = logging.StreamHandler(stream)
    out.setFormatter(LineFormatter(f"%(asctime)s {name}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[out], force=True)
    sys.excepthook = lambda _kind, error, _frames: write_traceback(error)
    threading.excepthook = lambda event: write_traceback(event.exc_value) if event.exc_value else None
    sys.unraisablehook = lambda event: write_traceback(event.exc_value) if event.exc_value else None


def write_traceback(error: BaseException) -> None:
    """Writes the traceback of an error to standard error, without texts that may quote rows."""
    sys.stderr.write(_shown(error))


def _shown(error: BaseException) -> str:
    return printable(trace(error), keep="\n")
