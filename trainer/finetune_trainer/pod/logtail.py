"""Copies the output of the ranks to the output of the pod, escaped for terminals; keeps the last lines."""

import codecs
import io
import os
import threading
from collections import deque
from pathlib import Path

from finetune_trainer.contract import printable

KEPT_LINES = 200
KEPT_COLUMNS = 2000
"""Maximum characters of a kept line, so that output without line ends does not fill the memory."""
_CHUNK = 64 * 1024


class LogTail:
    r"""A pipe, a thread that copies the pipe to a file descriptor, and the last lines of the output.

    The thread copies all output without delay. If the target is closed, the thread continues to read the
    pipe and discards the output, so that no rank blocks or fails when it writes. In the copy, a carriage
    return is a line end, and characters that control terminals are escapes such as `\x1b`.

    Args:
        target: file descriptor that receives the copy.
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
        """Waits until all writers have closed the pipe.

        Args:
            seconds: time limit, for a writer that keeps the pipe open.
        """
        os.close(self.write_end)
        self._thread.join(seconds)

    def text(self) -> str:
        """The last KEPT_LINES lines of the output."""
        with self._lock:
            lines = [*self._lines, self._rest] if self._rest else list(self._lines)
        return "\n".join(lines)

    def save(self, file: Path) -> None:
        """Writes the last KEPT_LINES lines of the output to a file."""
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
