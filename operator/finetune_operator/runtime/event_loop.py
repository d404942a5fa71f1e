"""Keeps the event loop free: long work gives way to other tasks, and how late tasks run is measured."""

import asyncio
import time

from finetune_operator.runtime import metrics

WORK_SECONDS = 0.01
"""Long work gives way after this time."""
MEASURE_SECONDS = 0.05
"""Time between two measurements of the lag."""


class Pace:
    """Interrupts one long loop."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def give_way(self) -> None:
        """Lets other tasks run, if this one has worked for WORK_SECONDS without a pause."""
        if time.monotonic() - self._since >= WORK_SECONDS:
            await asyncio.sleep(0)
            self._since = time.monotonic()


async def measure_lag() -> None:
    """Measures until cancelled how much later than asked for the event loop runs a task."""
    while True:
        due = time.monotonic() + MEASURE_SECONDS
        await asyncio.sleep(MEASURE_SECONDS)
        metrics.EVENT_LOOP_LAG.observe(max(0.0, time.monotonic() - due))
