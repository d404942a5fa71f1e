"""Temporary credentials of a real MinIO: use, renewal during use, and the failure after their expiry."""

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
from tests.trainer.storage import give_keys, give_session_keys, give_version, session_keys

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def jwt(**claims: object) -> str:
    payload = urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2ln"


def give_session(paths: Paths, s3: ObjectStore, token: str | None = None) -> None:
    """Writes the next version of the Secret, with new temporary credentials."""
    give_session_keys(paths, "output", session_keys(s3), token)


@pytest.mark.usefixtures("small_parts")
def test_transfers_continue_when_temporary_credentials_are_renewed(
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
    # Both clients use the current credentials, although the previous credentials are still valid.
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
def test_a_request_with_expired_credentials_succeeds_after_their_renewal(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(access, "output", paths)
    for act in calls(store, bucket)[1:]:
        give_session(paths, s3, jwt(exp=NOW.timestamp()))
        monkeypatch.setattr("finetune_trainer.s3.retries.sleep", lambda _: give_session(paths, s3))
        act()


def calls(store: Store, bucket: str) -> list[Callable[[], object]]:
    """One request of each client and kind; the refusal of the first request (HEAD) has no S3 error code."""
    return [
        lambda: store.head(f"s3://{bucket}/a"),
        lambda: store.list(f"s3://{bucket}/"),
        lambda: store.write(f"s3://{bucket}/a", b"x"),
        lambda: store.read_range(f"s3://{bucket}/a", 0, 1),
    ]


@pytest.mark.usefixtures("hasty")
def test_the_message_about_an_expired_token_has_the_expiry_time(
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


def test_the_hint_for_temporary_credentials_without_a_token_names_the_token(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str
) -> None:
    keys = session_keys(s3)
    give_keys(paths, "output", keys.access_key, keys.secret_key)
    with pytest.raises(StageFailure, match="StorageDenied") as failure:
        open_store(access, "output", paths).list(f"s3://{bucket}/")
    assert "session token" in failure.value.hint


def test_the_hint_for_a_token_of_other_credentials_names_all_three_keys(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str
) -> None:
    give_session(paths, s3, session_keys(s3).session_token)
    with pytest.raises(StageFailure, match="StorageDenied") as failure:
        open_store(access, "output", paths).list(f"s3://{bucket}/")
    assert "sessionToken is valid until 20" in failure.value.message
    assert "accessKey, secretKey and sessionToken" in failure.value.hint


def test_a_missing_permission_of_temporary_credentials_is_no_token_failure() -> None:
    token = SessionToken(None)
    assert of_answer(403, "AccessDenied", "x", "y", token).hint.startswith("Grant this permission")
    assert of_answer(403, "ExpiredToken", "x", "y", token).reason == "SessionTokenExpired"
    assert "an unknown time" in of_answer(403, "ExpiredToken", "x", "y", token).message


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
def test_a_jwt_token_has_an_expiry_time(token: str, read: SessionToken) -> None:
    assert SessionToken.read(token, NOW) == read


@given(some.text())
def test_every_text_is_accepted_as_a_token(token: str) -> None:
    for text in (token, f"a.{token}.b", jwt(exp=token)):
        assert isinstance(SessionToken.read(text, NOW), SessionToken)
