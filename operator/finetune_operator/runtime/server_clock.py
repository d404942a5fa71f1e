"""The API server's clock, learnt from the Date header of its answers.

Everything that the operator compares with "now" was dated by the API server: creation and deletion
timestamps, and what the operator itself wrote into a status. So "now" is the API server's too: a node whose
clock is wrong makes no deadline pass early, and takes no pod that is on its way out for gone.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RESOLUTION_SECONDS = 1.0
"""A Date header has whole seconds."""
TOLD_SECONDS = 30.0
"""A difference to this machine's clock that is worth a line in the log."""
log = logging.getLogger(__name__)


@dataclass
class ServerClock:
    """Runs by this machine's monotonic clock and is corrected by each answer."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _offset: float | None = None
    """Unix time of the API server less the monotonic clock; None: no answer has told it."""

    def now(self) -> datetime:
        """The moment by the API server's clock; by this machine's until the first answer."""
        if self._offset is None:
            return datetime.fromtimestamp(self.wall(), UTC)
        return datetime.fromtimestamp(self.monotonic() + self._offset, UTC)

    def take_in(self, date: str | None, asked_at: float) -> None:
        """Corrects the clock by an answer.

        The server wrote its Date between the request and now, and cut it to seconds: that bounds its clock,
        and what lies within these bounds stays as it is.

        Args:
            date: the Date header.
            asked_at: when the request was sent, by the monotonic clock.
        """
        try:
            told = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        earliest, latest = told - self.monotonic(), told + RESOLUTION_SECONDS - asked_at
        if self._offset is None:
            self._tell(told)
            self._offset = earliest
        self._offset = min(max(self._offset, earliest), latest)

    def _tell(self, told: float) -> None:
        if abs(ahead := self.wall() - told) > TOLD_SECONDS:
            word = "ahead of" if ahead > 0 else "behind"
            log.warning(
                "the clock of this machine is %.0f s %s the API server's, which counts here; see to NTP",
                abs(ahead),
                word,
            )
