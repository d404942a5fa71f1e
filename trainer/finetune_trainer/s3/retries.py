"""Decides whether a request that failed is made again, and when."""

import logging
import random
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

from finetune_trainer.s3.storefaults import RETRYABLE, classify

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

TRIES = 5
WINDOW_SECONDS = 120
"""No try begins later than this; above the read time-out, so that one that got no answer is made again."""


def persist(action: Callable[[], Answer], doing: str, endpoint: str, tries: int = TRIES) -> Answer:
    """Acts, again after growing random pauses while the reason may mend.

    Args:
        action: talks to the store; doing it twice is harmless.
        doing: what is tried, with the URI: "read s3://data/train.jsonl".
        endpoint: of the store.
        tries: at most.

    Raises:
        StageFailure: that of the last try.
    """
    deadline = monotonic() + WINDOW_SECONDS
    for attempt in range(1, tries + 1):
        try:
            return action()
        except Exception as error:
            failure = classify(error, doing=doing, endpoint=endpoint)
            pause = random.uniform(0.5, 1) * 0.25 * 2**attempt  # noqa: S311 - jitter, no secret
            if failure.reason not in RETRYABLE or attempt == tries or monotonic() + pause > deadline:
                raise failure from error
            log.warning("%s; try %d of %d in %.1f s", failure.message, attempt + 1, tries, pause)
            sleep(pause)
    raise AssertionError("the last try returns or raises")
