"""Repeats failed requests to a store."""

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
"""Maximum number of tries of a request."""
WINDOW_SECONDS = 120
"""Time limit for the start of a try; longer than the read time-out, so that a time-out is tried again."""


_CREDENTIAL_REASONS = frozenset({"StorageDenied", "SessionTokenExpired"})
"""Reasons that may pass with new credentials."""


class Reached(Protocol):
    """The part of a store that `persist` needs."""

    @property
    def endpoint(self) -> str:
        """URL of the store."""

    @property
    def credentials(self) -> Callable[[], Credentials]:
        """Reads the current credentials."""


def persist(action: Callable[[], Answer], doing: str, store: Reached, tries: int = TRIES) -> Answer:
    """Calls an action until it succeeds, with growing random pauses.

    The function repeats the action if the reason of the failure is in storefaults.RETRYABLE, or if the store
    has refused the credentials and the Secret has new credentials.

    Args:
        action: sends requests to the store; must be idempotent.
        doing: the operation, with the URI: "read s3://data/train.jsonl".
        store: the store.
        tries: maximum number of calls.

    Returns:
        The result of the action.

    Raises:
        StageFailure: the failure of the last try.
    """
    deadline = monotonic() + WINDOW_SECONDS
    for attempt in range(1, tries + 1):
        keys = store.credentials()
        try:
            return action()
        except Exception as error:
            failure = classify(error, doing=doing, endpoint=store.endpoint, token=token_of(keys))
            retryable = failure.reason in RETRYABLE or (
                failure.reason in _CREDENTIAL_REASONS and store.credentials() != keys
            )
            pause = random.uniform(0.5, 1) * 0.25 * 2**attempt  # noqa: S311 - jitter, no secret
            if not retryable or attempt == tries or monotonic() + pause > deadline:
                raise failure from error
            log.warning("%s; try %d of %d in %.1f s", failure.message, attempt + 1, tries, pause)
            sleep(pause)
    raise AssertionError("the last try returned no result and raised no exception")


def token_of(keys: Credentials) -> SessionToken | None:
    """The session token of credentials, with its state at this time; None for permanent credentials.

    Args:
        keys: the credentials.
    """
    return SessionToken.read(keys.session_token, datetime.now(UTC)) if keys.session_token else None
