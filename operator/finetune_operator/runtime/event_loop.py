"""Keeps the event loop responsive: long work gives way to other tasks, and the lag is measured."""

import asyncio
import gc
import time

from finetune_operator.runtime import metrics

WORK_SECONDS = 0.01
"""Long work gives way after this time."""
MEASURE_SECONDS = 0.05
"""Time between two measurements of the lag."""


def freeze_startup_objects() -> None:
    """Exempts all present objects from garbage collection, which pauses the event loop.

    Modules, classes and schemas live as long as the process. A full collection took 80 ms with these objects,
    and a busy operator needs a full collection every few seconds.
    """
    gc.collect()
    gc.freeze()


class Pace:
    """Pauses a long loop from time to time."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def give_way(self) -> None:
        """Lets other tasks run, if this task has worked for WORK_SECONDS without a pause."""
        if time.monotonic() - self._since >= WORK_SECONDS:
            await asyncio.sleep(0)
            self._since = time.monotonic()


async def measure_lag() -> None:
    """Measures the lag of the event loop until cancelled: how late a task runs after its due time."""
    while True:
        due = time.monotonic() + MEASURE_SECONDS
        await asyncio.sleep(MEASURE_SECONDS)
        metrics.EVENT_LOOP_LAG.observe(max(0.0, time.monotonic() - due))
