"""The API server's clock, computed from the Date header of its answers.

The operator compares the time only with timestamps of the API server (creation, deletion) and with timestamps
that the operator wrote into a status. So the time must be the API server's time as well: on a node with a
wrong clock, no deadline passes early, and no terminating pod is treated as gone.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RESOLUTION_SECONDS = 1.0
"""Resolution of a Date header."""
LOGGED_DIFFERENCE_SECONDS = 30.0
"""A larger difference to the clock of this machine is logged."""
log = logging.getLogger(__name__)


@dataclass
class ServerClock:
    """Runs on the monotonic clock of this machine. Each answer of the API server corrects the offset."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _offset: float | None = None
    """Unix time of the API server minus the monotonic clock; None: no answer came yet."""

    def now(self) -> datetime:
        """The time of the API server; until the first answer, the time of this machine."""
        if self._offset is None:
            return datetime.fromtimestamp(self.wall(), UTC)
        return datetime.fromtimestamp(self.monotonic() + self._offset, UTC)

    def take_in(self, date: str | None, asked_at: float) -> None:
        """Corrects the clock with an answer.

        The API server wrote the Date, truncated to seconds, after the request and before now. These two times
        bound the offset; an offset within the bounds stays unchanged.

        Args:
            date: the Date header.
            asked_at: the monotonic time of the request.
        """
        try:
            date_time = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        earliest, latest = date_time - self.monotonic(), date_time + RESOLUTION_SECONDS - asked_at
        if self._offset is None:
            self._log_difference(date_time)
            self._offset = earliest
        self._offset = min(max(self._offset, earliest), latest)

    def _log_difference(self, date_time: float) -> None:
        if abs(ahead := self.wall() - date_time) > LOGGED_DIFFERENCE_SECONDS:
            word = "ahead of" if ahead > 0 else "behind"
            log.warning(
                "the clock of this machine is %.0f s %s the API server's, which counts here; see to NTP",
                abs(ahead),
                word,
            )
