"""One request to a notification target: the signature of Standard Webhooks, keys, and answers."""

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest

from finetune_operator.runtime.webhook import Answer, decode_key, judge, read_keys, sign

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
MESSAGE = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
"""The signature of MESSAGE by KEY, from the tests of the libraries of Standard Webhooks."""


def test_a_message_has_the_signature_of_the_reference_implementation() -> None:
    assert sign([decode_key(KEY)], *MESSAGE) == SIGNATURE
    assert sign([decode_key(KEY.removeprefix("whsec_"))], *MESSAGE) == SIGNATURE


def test_two_keys_make_two_signatures() -> None:
    first, second = sign([decode_key(OTHER), decode_key(KEY)], *MESSAGE).split(" ")
    assert first != second == SIGNATURE


@pytest.mark.parametrize(
    "change", [("other", *MESSAGE[1:]), (MESSAGE[0], 1, MESSAGE[2]), (*MESSAGE[:2], b"{}")]
)
def test_the_signature_covers_id_time_and_body(change: tuple[str, int, bytes]) -> None:
    assert sign([decode_key(KEY)], *change) != SIGNATURE


def test_the_keys_of_a_target_are_read_anew_each_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist or has no signingKey"):
        read_keys(tmp_path)
    (tmp_path / "signingKey").write_text(KEY + "\n")
    assert read_keys(tmp_path) == [decode_key(KEY)]
    (tmp_path / "previousSigningKey").write_text(KEY)
    (tmp_path / "signingKey").write_text(OTHER)
    assert read_keys(tmp_path) == [b"o" * 32, decode_key(KEY)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("whsec_?secret?", "must be base64"),
        (base64.b64encode(b"secret").decode(), "at least 24 bytes"),
        ("", "24"),
    ],
)
def test_a_key_that_cannot_be_used_is_reported_and_not_quoted(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "signingKey").write_text(text)
    with pytest.raises(ValueError, match=why) as refusal:
        read_keys(tmp_path)
    assert "signingKey of the Secret of the target cannot be used" in str(refusal.value)
    assert not text or text not in str(refusal.value)


def test_a_binary_key_is_reported(tmp_path: Path) -> None:
    (tmp_path / "signingKey").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be used: it cannot be read"):
        read_keys(tmp_path)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_an_answer_of_success_ends_the_delivery(status: int) -> None:
    assert judge(status, None, NOW) == Answer()


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 410, 413])
def test_a_refusal_and_a_redirect_are_final(status: int) -> None:
    answer = judge(status, "5", NOW)
    assert answer.final
    assert answer.problem
    assert str(status) in answer.problem


@pytest.mark.parametrize(
    ("status", "retry_after", "wait"),
    [
        (500, None, 0.0),
        (503, "7", 7.0),
        (429, "86400", 600.0),
        (429, "Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        (429, "Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        (429, "Thu, 01 Jan 2026 12:00:30 -0000", 0.0),
        (408, "soon", 0.0),
    ],
)
def test_an_answer_that_may_pass_is_repeated_after_the_wait(
    status: int, retry_after: str | None, wait: float
) -> None:
    answer = judge(status, retry_after, NOW)
    assert (answer.final, answer.wait) == (False, wait)
    assert answer.problem == f"The target answered {status}."
