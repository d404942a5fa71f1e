import hashlib
import os
from pathlib import Path

import pytest
from minio import Minio

from finetune_trainer.config import StoreAccess
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store, open_store
from tests.trainer.storage import give_keys, on_both_stores, uploads_of
from tests.trainer.storeproxy import Fault, Operation, StoreProxy

pytestmark = on_both_stores

CONTENT = os.urandom(5 * 1024 * 1024 + 1000)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_is_uploaded_in_parts_with_its_digest(
    store: Store, bucket: str, file: Path, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/large"
    sent = store.upload(file, uri)
    got = store.download(uri, tmp_path / "back")
    assert sent == got
    assert got.size == len(CONTENT)
    assert got.digest == DIGEST
    assert (tmp_path / "back").read_bytes() == CONTENT
    assert (found := store.head(uri))
    assert found.etag.endswith('-2"')


@pytest.mark.usefixtures("small_parts")
def test_an_upload_reports_the_bytes_of_each_part(store: Store, bucket: str, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(CONTENT)
    large: list[int] = []
    small: list[int] = []

    store.upload(file, f"s3://{bucket}/large", on_bytes=large.append)
    file.write_bytes(b"small")
    store.upload(file, f"s3://{bucket}/small", on_bytes=small.append)

    assert large == [5 * 1024 * 1024, 1000]
    assert small == [5]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("report.html", "text/html; charset=utf-8"),
        ("report.json", "application/json"),
        ("README.md", "text/markdown; charset=utf-8"),
    ],
)
def test_files_for_browsers_have_their_content_type(
    name: str, told: str, store: Store, s3_admin: Minio, bucket: str, file: Path
) -> None:
    store.write(f"s3://{bucket}/small/{name}", b"{}")
    store.upload(file, f"s3://{bucket}/large/{name}")
    for size in ("small", "large"):
        assert s3_admin.stat_object(bucket, f"{size}/{name}").content_type == told


@pytest.mark.usefixtures("hasty", "small_parts", "impatient")
@pytest.mark.parametrize("fault", ["reset", "hang", "slow down", "error", "truncate", "flip", "lose answer"])
def test_an_upload_in_parts_succeeds_after_a_failure_of_any_request(
    fault: Fault, s3_proxy: StoreProxy, paths: Paths, s3_admin: Minio, bucket: str, file: Path
) -> None:
    store = open_store(StoreAccess(endpoint=s3_proxy.endpoint), "output", paths)
    steps: tuple[Operation, ...] = ("begin upload", "put part", "complete upload")
    for step in steps:
        uri = f"s3://{bucket}/{step}"
        s3_proxy.suffer(fault, step, times=1)
        store.upload(file, uri)
        assert (
            store.download(uri, file.with_name(step)).digest
            == "sha256:" + hashlib.sha256(CONTENT).hexdigest()
        )
    store.abort_uploads(f"s3://{bucket}/")
    assert [uploads_of(s3_admin, bucket, step) for step in steps] == [0, 0, 0]


@pytest.mark.usefixtures("hasty", "small_parts")
def test_an_upload_that_could_not_be_aborted_is_aborted_later(
    s3_proxy: StoreProxy,
    paths: Paths,
    s3_admin: Minio,
    bucket: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("finetune_trainer.s3.uploads.TRIES", 2)
    store = open_store(StoreAccess(endpoint=s3_proxy.endpoint), "output", paths)
    s3_proxy.suffer("reset", "complete upload", "abort upload")
    with pytest.raises(StageFailure, match="StorageUnreachable"):
        store.upload(file, f"s3://{bucket}/runs/a/large")
    s3_proxy.heal()
    assert store.head(f"s3://{bucket}/runs/a/large") is None
    left = uploads_of(s3_admin, bucket, "runs/a/large")
    assert left
    assert store.abort_uploads(f"s3://{bucket}/runs/a/") == left
    assert uploads_of(s3_admin, bucket, "runs/a/large") == 0


def test_unfinished_uploads_below_a_prefix_are_aborted(store: Store, s3_admin: Minio, bucket: str) -> None:
    for key in ("runs/a/1", "runs/a/2", "runs/b/3"):
        s3_admin._create_multipart_upload(bucket, key, {})
    assert store.abort_uploads(f"s3://{bucket}/runs/a/") == 2
    assert store.abort_uploads(f"s3://{bucket}/runs/a/") == 0
    assert store.abort_uploads(f"s3://{bucket}/runs/b/3") == 1


def test_more_unfinished_uploads_than_a_page_holds_are_aborted(
    store: Store, s3_admin: Minio, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        s3_admin._create_multipart_upload(bucket, f"runs/{number // 3}", {})
    monkeypatch.setattr("finetune_trainer.s3.multipart.PAGE_UPLOADS", 2)
    assert store.abort_uploads(f"s3://{bucket}/runs/") == 7


@pytest.mark.parametrize("name", ["a b+c", "\u00e9\u4e2d", "100%", "x=1&y=2", "semi;colon"])
def test_the_key_of_an_upload_is_signed_letter_by_letter(
    store: Store, s3_admin: Minio, bucket: str, name: str
) -> None:
    s3_admin._create_multipart_upload(bucket, f"runs/{name}", {})
    assert store.abort_uploads(f"s3://{bucket}/") == 1
    assert uploads_of(s3_admin, bucket, f"runs/{name}") == 0


def test_who_may_not_list_uploads_is_told_so(access: StoreAccess, paths: Paths, bucket: str) -> None:
    give_keys(paths, "output", "nobody", "wrong-secret")
    with pytest.raises(StageFailure, match="StorageDenied") as denied:
        open_store(access, "output", paths).abort_uploads(f"s3://{bucket}/runs/")
    assert f"abort uploads below s3://{bucket}/runs/" in denied.value.message
