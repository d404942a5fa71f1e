"""Temporary keys of a real MinIO: used, exchanged while in use, and told of when they have expired."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some
from minio import Minio

from devcluster.objectstore import ObjectStore
from finetune_trainer.config import StoreAccess
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.answers import of_answer
from finetune_trainer.s3.sessiontoken import SessionToken
from finetune_trainer.s3.store import Store, open_store
from tests.trainer.storage import give_keys, give_version, session_keys

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def jwt(**claims: object) -> str:
    payload = urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2ln"


def give_session(paths: Paths, s3: ObjectStore, token: str | None = None) -> None:
    """The next version of the Secret, with new temporary keys."""
    keys = session_keys(s3)
    files = {"accessKey": keys.access_key, "secretKey": keys.secret_key}
    give_version(paths, "output", **files, sessionToken=token or keys.session_token or "")


@pytest.mark.usefixtures("small_parts")
def test_transfers_go_on_when_temporary_keys_are_exchanged(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str, tmp_path: Path
) -> None:
    give_session(paths, s3)
    store = open_store(access, "output", paths)
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 40_960)

    def everything() -> None:
        sent = store.upload(large, f"s3://{bucket}/large")
        assert store.download(f"s3://{bucket}/large", tmp_path / "back") == sent
        store.write(f"s3://{bucket}/small", b"x")
        assert store.read_range(f"s3://{bucket}/small", 0, 1) == b"x"
        assert len(store.list(f"s3://{bucket}/")) == 2

    everything()
    give_session(paths, s3)
    everything()
    # Both clients use the keys that are there now, not those that still work.
    give_version(paths, "output", accessKey="nobody", secretKey="no key")
    for act in calls(store, bucket):
        with pytest.raises(StageFailure, match="InvalidAccessKeyId"):
            act()


def test_unfinished_uploads_are_aborted_with_temporary_keys(
    s3: ObjectStore, access: StoreAccess, paths: Paths, s3_admin: Minio, bucket: str
) -> None:
    give_session(paths, s3)
    s3_admin._create_multipart_upload(bucket, "runs/a", {})
    assert open_store(access, "output", paths).abort_uploads(f"s3://{bucket}/runs/") == 1


@pytest.mark.usefixtures("hasty")
def test_what_expired_keys_were_refused_is_done_with_new_ones(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(access, "output", paths)
    for act in calls(store, bucket)[1:]:
        give_session(paths, s3, jwt(exp=NOW.timestamp()))
        monkeypatch.setattr("finetune_trainer.s3.retries.sleep", lambda _: give_session(paths, s3))
        act()


def calls(store: Store, bucket: str) -> list[Callable[[], object]]:
    """One of each client and kind; the first asks for headers only, whose refusal has no words."""
    return [
        lambda: store.head(f"s3://{bucket}/a"),
        lambda: store.list(f"s3://{bucket}/"),
        lambda: store.write(f"s3://{bucket}/a", b"x"),
        lambda: store.read_range(f"s3://{bucket}/a", 0, 1),
    ]


@pytest.mark.usefixtures("hasty")
def test_an_expired_token_is_named_with_its_end(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str
) -> None:
    give_session(paths, s3, jwt(exp=int(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp())))
    store = open_store(access, "output", paths)
    for act in calls(store, bucket):
        with pytest.raises(StageFailure, match="SessionTokenExpired") as failure:
            act()
        assert failure.value.failure is FailureClass.STORAGE
        assert "sessionToken expired at 2026-01-02 03:04:05 UTC" in failure.value.message
        assert "Check accessKey" not in failure.value.hint


def test_temporary_keys_without_their_token_say_that_it_may_be_missing(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str
) -> None:
    keys = session_keys(s3)
    give_keys(paths, "output", keys.access_key, keys.secret_key)
    with pytest.raises(StageFailure, match="StorageDenied") as failure:
        open_store(access, "output", paths).list(f"s3://{bucket}/")
    assert "session token" in failure.value.hint


def test_a_token_of_other_keys_is_denied_with_all_three_names(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str
) -> None:
    give_session(paths, s3, session_keys(s3).session_token)
    with pytest.raises(StageFailure, match="StorageDenied") as failure:
        open_store(access, "output", paths).list(f"s3://{bucket}/")
    assert "sessionToken is valid until 20" in failure.value.message
    assert "accessKey, secretKey and sessionToken" in failure.value.hint


def test_keys_with_a_token_may_lack_a_right_like_others() -> None:
    token = SessionToken(None)
    assert of_answer(403, "AccessDenied", "x", "y", token).hint.startswith("Give these credentials")
    assert of_answer(403, "ExpiredToken", "x", "y", token).reason == "SessionTokenExpired"
    assert "it does not tell" in of_answer(403, "ExpiredToken", "x", "y", token).message


@pytest.mark.parametrize(
    ("token", "read"),
    [
        (jwt(exp=NOW.timestamp() + 1), SessionToken(datetime(2026, 11, 28, 12, 0, 1, tzinfo=UTC))),
        (jwt(exp=NOW.timestamp()), SessionToken(NOW, expired=True)),
        (jwt(exp="soon"), SessionToken(None)),
        (jwt(exp=1e300), SessionToken(None)),
        (jwt(), SessionToken(None)),
        ("FwoGZXIvYXdzEBY", SessionToken(None)),
        ("a.W10.c", SessionToken(None)),
    ],
)
def test_a_token_tells_its_end_if_it_is_a_jwt(token: str, read: SessionToken) -> None:
    assert SessionToken.read(token, NOW) == read


@given(some.text())
def test_any_token_can_be_read(token: str) -> None:
    for text in (token, f"a.{token}.b", jwt(exp=token)):
        assert isinstance(SessionToken.read(text, NOW), SessionToken)
