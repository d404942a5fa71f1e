"""Passes the ranks' output on to the pod's own, escaped for terminals, and remembers its last lines."""

import codecs
import io
import os
import threading
from collections import deque
from pathlib import Path

from finetune_trainer.contract import printable

KEPT_LINES = 200
KEPT_COLUMNS = 2000
"""Characters kept of a line: a progress bar without line ends must not grow memory."""
_CHUNK = 64 * 1024


class LogTail:
    """A pipe to write to, a thread that copies it to `target`, and the last lines seen.

    Nothing is lost or delayed on its way to the target; a target that is closed is given up on while
    reading goes on, so that no rank ever blocks or dies on its own output. Terminals only show what arrives:
    a carriage return becomes a line end, other characters that terminals act on become their escapes.
    """

    def __init__(self, target: int = 1) -> None:
        self._target: int | None = target
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._rest = ""
        self._lock = threading.Lock()
        self._read_end, self.write_end = os.pipe()
        self._thread = threading.Thread(target=self._copy, name="log", daemon=True)
        self._thread.start()

    def close(self, seconds: float = 2) -> None:
        """Ends the copy once all writers are gone, or after so long if one holds the pipe open."""
        os.close(self.write_end)
        self._thread.join(seconds)

    def text(self) -> str:
        """The last lines."""
        with self._lock:
            lines = [*self._lines, self._rest] if self._rest else list(self._lines)
        return "\n".join(lines)

    def save(self, file: Path) -> None:
        """Writes the last lines to a file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.text())

    def _copy(self) -> None:
        decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder("utf-8")("backslashreplace"), translate=True
        )
        chunk = None
        while chunk != b"":
            chunk = os.read(self._read_end, _CHUNK)
            text = printable(decoder.decode(chunk, final=not chunk), keep="\n\t")
            self._remember(text)
            self._pass_on(text.encode())
        os.close(self._read_end)

    def _remember(self, text: str) -> None:
        *whole, rest = (self._rest + text).split("\n")
        with self._lock:
            self._lines.extend(line[:KEPT_COLUMNS] for line in whole[-KEPT_LINES:])
            self._rest = rest[:KEPT_COLUMNS]

    def _pass_on(self, chunk: bytes) -> None:
        while chunk and self._target is not None:
            try:
                chunk = chunk[os.write(self._target, chunk) :]
            except OSError:
                self._target = None
