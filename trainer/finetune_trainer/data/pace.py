"""Reports the progress of a pass over the data, at most a few times a second."""

import time

from finetune_trainer.contract import Activity
from finetune_trainer.heartbeat import Heartbeat

_SECONDS = 2.0


class Pace:
    """The progress of one pass: a heartbeat at most every two seconds."""

    def __init__(
        self, heartbeat: Heartbeat, activity: Activity, percent: tuple[float, float], total: int | None = None
    ) -> None:
        """Beats once.

        Args:
            heartbeat: of the rank.
            activity: what the pass does.
            percent: of the stage, when the pass begins and when it ends.
            total: rows of the pass; None: unknown.
        """
        self._heartbeat, self._activity, self._percent, self._total = heartbeat, activity, percent, total
        self.rows = self.tokens = 0
        self._beat()

    def done(self, rows: int, tokens: int = 0) -> None:
        """Counts rows and tokens."""
        self.rows += rows
        self.tokens += tokens
        self.alive()

    def alive(self) -> None:
        """Nothing new, but the pass is not stuck: a transfer goes on that has a time limit of its own."""
        if time.monotonic() - self._since >= _SECONDS:
            self._beat()

    def _beat(self) -> None:
        self._since = time.monotonic()
        low, high = self._percent
        share = self.rows / self._total if self._total else 0.0
        tokens = {"tokens": self.tokens} if self.tokens else {}
        percent = low + (high - low) * min(1.0, share)
        self._heartbeat.beat(self._activity, percent=percent, rows=self.rows, **tokens)
