"""Decides whether a request that failed is made again, and when."""

import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Protocol, TypeVar

from finetune_trainer.s3.credentials import Credentials
from finetune_trainer.s3.sessiontoken import SessionToken
from finetune_trainer.s3.storefaults import RETRYABLE, classify

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

TRIES = 5
WINDOW_SECONDS = 120
"""No try begins later than this; above the read time-out, so that one that got no answer is made again."""


_OF_KEYS = frozenset({"StorageDenied", "SessionTokenExpired"})
"""Reasons that other keys may mend."""


class Reached(Protocol):
    """A store, as far as a refusal depends on it."""

    @property
    def endpoint(self) -> str:
        """Its URL."""

    @property
    def credentials(self) -> Callable[[], Credentials]:
        """Reads the keys as they are now."""


def persist(action: Callable[[], Answer], doing: str, store: Reached, tries: int = TRIES) -> Answer:
    """Acts, again after growing random pauses while the reason may mend, or once the keys are others.

    Args:
        action: talks to the store; doing it twice is harmless.
        doing: what is tried, with the URI: "read s3://data/train.jsonl".
        store: that it talks to.
        tries: at most.

    Raises:
        StageFailure: that of the last try.
    """
    deadline = monotonic() + WINDOW_SECONDS
    for attempt in range(1, tries + 1):
        keys = store.credentials()
        try:
            return action()
        except Exception as error:
            failure = classify(error, doing=doing, endpoint=store.endpoint, token=token_of(keys))
            may_mend = failure.reason in RETRYABLE or (
                failure.reason in _OF_KEYS and store.credentials() != keys
            )
            pause = random.uniform(0.5, 1) * 0.25 * 2**attempt  # noqa: S311 - jitter, no secret
            if not may_mend or attempt == tries or monotonic() + pause > deadline:
                raise failure from error
            log.warning("%s; try %d of %d in %.1f s", failure.message, attempt + 1, tries, pause)
            sleep(pause)
    raise AssertionError("the last try returns or raises")


def token_of(keys: Credentials) -> SessionToken | None:
    """What the session token of some keys tells now."""
    return SessionToken.read(keys.session_token, datetime.now(UTC)) if keys.session_token else None
