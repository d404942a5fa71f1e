from http import HTTPStatus
from typing import Any

import pytest

from finetune_operator.runtime import scrape_access
from finetune_operator.runtime.api_client import UnavailableError
from finetune_operator.runtime.scrape_access import MAX_TOKENS, ScrapeAccess

USER = {
    "username": "system:serviceaccount:monitoring:prometheus",
    "uid": "u-1",
    "groups": ["system:authenticated"],
}


class Reviews:
    """The answers of an API server that knows one token."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.allowed, self.away = True, False

    async def __call__(self, kind: str, spec: Any) -> Any:
        self.asked.append((kind, spec))
        if self.away:
            raise UnavailableError("create tokenreviews: no route to host")
        if kind == "TokenReview":
            known = spec == {"token": "good"}
            return {"authenticated": True, "user": USER} if known else {"error": "unknown"}
        return {"allowed": self.allowed}


async def test_a_valid_token_with_the_right_may_read() -> None:
    reviews = Reviews()
    assert await ScrapeAccess(reviews).decide("Bearer good") is HTTPStatus.OK
    (first, token), (second, asked) = reviews.asked
    assert (first, second) == ("TokenReview", "SubjectAccessReview")
    assert token == {"token": "good"}
    assert asked["user"] == USER["username"]
    assert asked["groups"] == USER["groups"]
    assert asked["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}


@pytest.mark.parametrize("header", ["", "Bearer ", "Basic good", "good"])
async def test_a_request_without_a_token_is_refused_without_a_review(header: str) -> None:
    reviews = Reviews()
    assert await ScrapeAccess(reviews).decide(header) is HTTPStatus.UNAUTHORIZED
    assert not reviews.asked


async def test_an_unknown_token_is_unauthorized_and_a_user_without_the_right_is_forbidden() -> None:
    reviews = Reviews()
    access = ScrapeAccess(reviews)
    assert await access.decide("Bearer bad") is HTTPStatus.UNAUTHORIZED
    assert [kind for kind, _ in reviews.asked] == ["TokenReview"]
    reviews.allowed = False
    assert await access.decide("Bearer good") is HTTPStatus.FORBIDDEN


async def test_a_decision_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    reviews, now = Reviews(), [1000.0]
    monkeypatch.setattr(scrape_access.time, "monotonic", lambda: now[0])
    access = ScrapeAccess(reviews)
    assert await access.decide("Bearer good") is HTTPStatus.OK
    reviews.allowed = False
    now[0] += 59
    assert await access.decide("Bearer good") is HTTPStatus.OK
    now[0] += 2
    assert await access.decide("Bearer good") is HTTPStatus.FORBIDDEN
    reviews.allowed = True
    now[0] += 11
    assert await access.decide("Bearer good") is HTTPStatus.OK


async def test_an_api_server_that_does_not_answer_allows_nothing_and_is_asked_again() -> None:
    reviews = Reviews()
    reviews.away = True
    access = ScrapeAccess(reviews)
    assert await access.decide("Bearer good") is HTTPStatus.SERVICE_UNAVAILABLE
    reviews.away = False
    assert await access.decide("Bearer good") is HTTPStatus.OK


async def test_the_number_of_kept_decisions_is_bounded() -> None:
    access = ScrapeAccess(Reviews())
    for number in range(MAX_TOKENS + 10):
        await access.decide(f"Bearer {number}")
    assert len(access._known) == MAX_TOKENS
