"""Reports the progress of a pass over the data."""

import time

from finetune_trainer.contract import Activity
from finetune_trainer.heartbeat import Heartbeat

_HEARTBEAT_SECONDS = 2.0


class ProgressReporter:
    """Counts rows and tokens of a pass, and sends a heartbeat at most every 2 seconds."""

    def __init__(
        self, heartbeat: Heartbeat, activity: Activity, percent: tuple[float, float], total: int
    ) -> None:
        """Sends the first heartbeat.

        Args:
            heartbeat: heartbeat of the rank.
            activity: activity of the pass.
            percent: progress of the stage in percent at the start and at the end of the pass.
            total: size of the whole pass in rows, or in the unit of the argument `done` of `add`.
        """
        self._heartbeat, self._activity, self._percent, self._total = heartbeat, activity, percent, total
        self.rows = self.tokens = 0
        self._done = 0.0
        self._send_heartbeat()

    def add(self, rows: int, tokens: int = 0, done: float | None = None) -> None:
        """Adds processed rows and tokens.

        Args:
            rows: rows.
            tokens: tokens.
            done: the part of the total that the pass has completed; default: all rows so far.
        """
        self.rows += rows
        self.tokens += tokens
        self._done = self.rows if done is None else done
        self.keep_alive()

    def keep_alive(self) -> None:
        """Sends a heartbeat during a transfer, which has its own time limit."""
        if time.monotonic() - self._since >= _HEARTBEAT_SECONDS:
            self._send_heartbeat()

    def _send_heartbeat(self) -> None:
        self._since = time.monotonic()
        low, high = self._percent
        share = self._done / self._total if self._total else 0.0
        tokens = {"tokens": self.tokens} if self.tokens else {}
        percent = low + (high - low) * min(1.0, share)
        self._heartbeat.beat(self._activity, percent=percent, rows=self.rows, **tokens)
