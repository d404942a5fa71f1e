import hashlib
import io
import logging
import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from minio import Minio

from devcluster.objectstore import ObjectStore
from finetune_trainer.config import StoreAccess
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import downloads
from finetune_trainer.s3.checksums import Stated
from finetune_trainer.s3.store import Store, open_store
from finetune_trainer.s3.uris import S3Uri
from tests.trainer.storage import on_both_stores, put_in_parts
from tests.trainer.storeproxy import StoreProxy

MIB = 1024 * 1024
BEYOND = os.urandom(10 * MIB + 1234)
"""Bytes: larger than two parts of the minimum size."""


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def proxied(s3_proxy: StoreProxy, paths: Paths) -> Store:
    return open_store(StoreAccess(endpoint=s3_proxy.endpoint), "data", paths)


Put = Callable[[Store, Minio, str, str], None]


def at_once(store: Store, _admin: Minio, bucket: str, key: str) -> None:
    store.write(f"s3://{bucket}/{key}", BEYOND)


def in_even_parts(_store: Store, admin: Minio, bucket: str, key: str) -> None:
    put_in_parts(admin, bucket, key, [BEYOND[: 10 * MIB], BEYOND[10 * MIB :]])


def in_uneven_parts(_store: Store, admin: Minio, bucket: str, key: str) -> None:
    put_in_parts(admin, bucket, key, [BEYOND[: 5 * MIB], BEYOND[5 * MIB :]])


def in_one_part(_store: Store, admin: Minio, bucket: str, key: str) -> None:
    put_in_parts(admin, bucket, key, [BEYOND])


def with_its_sha256(_store: Store, admin: Minio, bucket: str, key: str) -> None:
    checksum = b64encode(hashlib.sha256(BEYOND).digest()).decode()
    admin._execute("PUT", bucket, key, BEYOND, headers={"x-amz-checksum-sha256": checksum})


@on_both_stores
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("put", [at_once, in_even_parts, in_uneven_parts, in_one_part, with_its_sha256])
def test_a_flipped_bit_is_detected_for_every_kind_of_upload(
    store: Store,
    proxied: Store,
    s3_proxy: StoreProxy,
    s3_admin: Minio,
    bucket: str,
    tmp_path: Path,
    put: Put,
) -> None:
    put(store, s3_admin, bucket, "large")
    harm = s3_proxy.suffer("flip", "get", times=1)
    transfer = proxied.download(f"s3://{bucket}/large", tmp_path / "file")
    assert len(harm.suffered) == 1
    assert transfer.digest == sha256((tmp_path / "file").read_bytes()) == sha256(BEYOND)
    s3_proxy.suffer("flip", "get")
    with pytest.raises(StageFailure, match="ObjectCorrupt"):
        proxied.download(f"s3://{bucket}/large", tmp_path / "other")
    assert [path.name for path in tmp_path.glob("*other*")] == []


@on_both_stores
def test_a_range_is_accepted_when_two_readings_agree(
    proxied: Store, s3_proxy: StoreProxy, store: Store, bucket: str
) -> None:
    uri = f"s3://{bucket}/model.safetensors"
    store.write(uri, BEYOND[:1000])
    for times in (None, 1):
        s3_proxy.suffer("flip", "get", times=times)
        assert proxied.read_range(uri, 8, 100) == BEYOND[8:108]
    assert proxied.read_range(uri, 990, 100) == BEYOND[990:1000]


@on_both_stores
def test_a_download_must_match_the_expected_digest(store: Store, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/shard"
    store.write(uri, b"these")
    assert store.download(uri, tmp_path / "file", sha256(b"these")).size == 5
    with pytest.raises(StageFailure, match="ObjectCorrupt") as caught:
        store.download(uri, tmp_path / "other", sha256(b"those"))
    assert sha256(b"those") in caught.value.message
    assert not (tmp_path / "other").exists()


@on_both_stores
@pytest.mark.usefixtures("hasty")
def test_an_object_that_is_corrupt_on_the_disk_of_the_store_is_refused(
    s3: ObjectStore, store: Store, bucket: str, tmp_path: Path
) -> None:
    store.write(f"s3://{bucket}/model", BEYOND)
    at = s3.data / bucket / "model"
    [file] = [at] if at.is_file() else at.rglob("part.1")
    with file.open("r+b") as disk:
        disk.seek(MIB)
        disk.write(bytes([BEYOND[MIB] ^ 1]))
    with pytest.raises(StageFailure) as caught:
        store.download(f"s3://{bucket}/model", tmp_path / "file")
    # One store detects the fault itself and closes the connection.
    assert caught.value.reason in {"ObjectCorrupt", "StorageUnreachable", "StorageError"}
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("s3", ["versitygw"], indirect=True)
def test_a_file_put_directly_on_the_disk_of_the_store_is_read_without_an_etag(
    s3: ObjectStore, store: Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = s3.data / bucket / "outside"
    file.write_bytes(BEYOND)
    os.utime(file, (10**9 + 0.5, 10**9 + 0.5))
    assert store.download(f"s3://{bucket}/outside", tmp_path / "file").digest == sha256(BEYOND)
    monkeypatch.setattr(downloads, "RANGE_BYTES", MIB)
    with pytest.raises(StageFailure, match="ObjectChanged"):
        read_while(lambda: os.utime(file), store, bucket, "outside")


@on_both_stores
def test_a_change_of_an_object_during_a_download_is_detected(
    store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "RANGE_BYTES", 1000)
    store.write(f"s3://{bucket}/changing", b"1" * 20_000)
    with pytest.raises(StageFailure, match="ObjectChanged"):
        read_while(lambda: store.write(f"s3://{bucket}/changing", b"2" * 20_000), store, bucket, "changing")


def read_while(action: Callable[[], object], store: Store, bucket: str, key: str) -> None:
    """Reads an object, and calls a function after the first bytes."""

    class Sink(io.BytesIO):
        def write(self, piece: bytes) -> int:  # type: ignore[override]
            if not self.tell():
                action()
            return super().write(piece)

    downloads.read_into(store._clients, S3Uri(bucket, key), Sink())


@pytest.mark.usefixtures("small_parts")
def test_an_object_with_an_unknown_kind_of_etag_is_read_twice_and_accepted(
    store: Store,
    s3_admin: Minio,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    in_even_parts(store, s3_admin, bucket, "large")
    monkeypatch.setattr(downloads, "stated", lambda _: Stated(etag="0" * 32 + "-2"))
    with caplog.at_level(logging.WARNING):
        assert store.download(f"s3://{bucket}/large", tmp_path / "file").digest == sha256(BEYOND)
    assert "0000-2" in caplog.text


def test_an_object_without_known_sizes_of_parts_is_accepted(
    store: Store, s3_admin: Minio, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_uneven_parts(store, s3_admin, bucket, "large")
    whole = downloads.look
    monkeypatch.setattr(downloads, "look", lambda clients, where, _part=None: whole(clients, where))
    assert store.download(f"s3://{bucket}/large", tmp_path / "file").digest == sha256(BEYOND)


@on_both_stores
def test_an_interrupted_download_leaves_no_file(store: Store, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match="ObjectMissing"):
        store.download(f"s3://{bucket}/nothing", tmp_path / "file")
    assert list(tmp_path.glob("file*")) == []


@on_both_stores
def test_an_empty_object_is_read(store: Store, bucket: str, tmp_path: Path) -> None:
    store.write(f"s3://{bucket}/empty", b"")
    assert store.read(f"s3://{bucket}/empty") == b""
    assert store.download(f"s3://{bucket}/empty", tmp_path / "file").digest == sha256(b"")


def test_a_download_reports_bytes_before_a_request_ends(
    s3_proxy: StoreProxy, proxied: Store, bucket: str, tmp_path: Path
) -> None:
    proxied.write(f"s3://{bucket}/large", BEYOND)
    s3_proxy.suffer("pause", "get")
    reported: list[int] = []

    def on_bytes(count: int) -> None:
        reported.append(count)
        s3_proxy.resume()

    transfer = proxied.download(f"s3://{bucket}/large", tmp_path / "file", on_bytes=on_bytes)

    assert transfer.digest == sha256(BEYOND)
    assert sum(reported) == len(BEYOND)
    assert len(reported) > 2
