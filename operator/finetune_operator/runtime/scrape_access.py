"""Who may read /metrics: the API server checks the token of a request and the rights of its user.

controller-runtime and the components of Kubernetes check in the same way: a TokenReview names the user of a
bearer token, and a SubjectAccessReview tells whether the user may `get` the URL /metrics.
"""

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from finetune_operator.objects import Manifest
from finetune_operator.runtime.api_client import ApiError

Review = Callable[[str, Manifest], Awaitable[Manifest]]
"""Sends a review of a kind with a spec to the API server, and returns the status of the answer."""
ALLOWED_SECONDS = 60.0
"""An allowed token is asked about again after this long."""
REFUSED_SECONDS = 10.0
"""A refused token is asked about again after this long."""
MAX_TOKENS = 1000
"""Most answers that are kept; the oldest answer is forgotten first."""
log = logging.getLogger(__name__)


@dataclass
class ScrapeAccess:
    """Decides whether a request may read /metrics, and keeps the decisions for a short time.

    Args:
        review: sends a review to the API server.
    """

    review: Review
    _known: OrderedDict[bytes, tuple[float, HTTPStatus]] = field(default_factory=OrderedDict)
    """By the digest of a token: until when the decision is valid (time.monotonic()), and the decision."""

    async def decide(self, authorization: str) -> HTTPStatus:
        """Decides about the value of the header Authorization.

        Returns:
            OK; UNAUTHORIZED without a valid token; FORBIDDEN if the user lacks the right; SERVICE_UNAVAILABLE
            if the API server does not answer.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return HTTPStatus.UNAUTHORIZED
        digest = hashlib.sha256(token.encode()).digest()
        until, decision = self._known.get(digest, (0.0, HTTPStatus.UNAUTHORIZED))
        if time.monotonic() < until:
            return decision
        try:
            decision = await self._ask(token.strip())
        except ApiError as error:
            log.warning("a request for metrics cannot be checked: %s", error)
            return HTTPStatus.SERVICE_UNAVAILABLE
        seconds = ALLOWED_SECONDS if decision is HTTPStatus.OK else REFUSED_SECONDS
        self._known[digest] = time.monotonic() + seconds, decision
        while len(self._known) > MAX_TOKENS:
            self._known.popitem(last=False)
        return decision

    async def _ask(self, token: str) -> HTTPStatus:
        status = await self.review("TokenReview", {"token": token})
        if not status.get("authenticated"):
            return HTTPStatus.UNAUTHORIZED
        user = status.get("user") or {}
        asked = {
            "user": user.get("username", ""),
            "groups": user.get("groups", []),
            "uid": user.get("uid", ""),
            "extra": user.get("extra", {}),
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        }
        status = await self.review("SubjectAccessReview", asked)
        return HTTPStatus.OK if status.get("allowed") else HTTPStatus.FORBIDDEN
