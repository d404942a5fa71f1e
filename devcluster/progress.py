"""What a person sees while something takes long: one line a step, with the seconds it took."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HEARTBEAT_SECONDS = 30.0


def say(text: str) -> None:
    """Print a line for people; standard output is kept for answers that programs read."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show that a step runs, for how long, and whether it ended well.

    On a terminal the line counts seconds; elsewhere (a CI log) a heartbeat every 30 s shows that it is alive.
    """
    started = time.monotonic()
    ended = threading.Event()
    terminal = sys.stderr.isatty()

    def tick() -> None:
        while not ended.wait(1.0 if terminal else HEARTBEAT_SECONDS):
            elapsed = time.monotonic() - started
            if terminal:
                print(f"\r  ... {title} {elapsed:4.0f} s", end="", file=sys.stderr, flush=True)
            else:
                say(f"  ... {title} {elapsed:4.0f} s")

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    outcome = "failed"
    try:
        yield
        outcome = "ok"
    finally:
        ended.set()
        ticker.join()
        carriage = "\r" if terminal else ""
        say(f"{carriage}  {outcome:6} {title} {time.monotonic() - started:.1f} s")
