import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devcluster.objectstore import ObjectStore
from finetune_trainer.config import StoreAccess
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store, open_store
from tests.trainer.s3.servers import failure_of
from tests.trainer.storage import add_user, give_keys, on_both_stores

pytestmark = on_both_stores


def test_a_small_object_is_read_as_written(store: Store, bucket: str) -> None:
    uri = f"s3://{bucket}/a/b c/ü.json"
    sent = store.write(uri, b"{}")
    assert store.read(uri) == b"{}"
    assert sent.digest == "sha256:" + hashlib.sha256(b"{}").hexdigest()


def test_a_listing_has_only_keys_with_the_exact_prefix(store: Store, bucket: str) -> None:
    for key in ("a/1", "a/2/3", "ab/4"):
        store.write(f"s3://{bucket}/{key}", b"x")
    assert [entry.uri for entry in store.list(f"s3://{bucket}/a/")] == [
        f"s3://{bucket}/a/1",
        f"s3://{bucket}/a/2/3",
    ]
    assert [entry.uri for entry in store.list(f"s3://{bucket}/", most=1)] == [f"s3://{bucket}/a/1"]
    assert store.head(f"s3://{bucket}/a/") is None


def test_delete_is_idempotent(store: Store, bucket: str) -> None:
    store.write(f"s3://{bucket}/a", b"x")
    for _ in range(2):
        store.delete([f"s3://{bucket}/a"])
    assert store.list(f"s3://{bucket}/") == []


def test_an_object_above_the_limit_is_refused_before_it_is_read(store: Store, bucket: str) -> None:
    store.write(f"s3://{bucket}/a", b"xyz")
    with pytest.raises(StageFailure, match="ObjectTooLarge"):
        store.read(f"s3://{bucket}/a", limit=2)


def test_a_bucket_is_denied_without_and_read_with_the_permission(
    s3: ObjectStore, store: Store, access: StoreAccess, paths: Paths, bucket: str, tmp_path: Path
) -> None:
    store.write(f"s3://{bucket}/mine/a", b"x")
    give_keys(paths, "data", *add_user(s3, bucket, {}, tmp_path))
    assert failure_of(access, paths, f"s3://{bucket}/mine/a").reason == "StorageDenied"
    give_keys(paths, "data", *add_user(s3, bucket, {"mine/*": ["s3:GetObject"]}, tmp_path))
    reader = open_store(access, "data", paths)
    assert reader.read(f"s3://{bucket}/mine/a") == b"x"
    with pytest.raises(StageFailure, match="StorageDenied"):
        reader.write(f"s3://{bucket}/mine/a", b"y")
    with pytest.raises(StageFailure, match="StorageDenied"):
        reader.delete([f"s3://{bucket}/mine/a"])


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "ü/é",
        "a+b",
        "a%20b",
        "a&b=c;d",
        "a'b(c)*!~",
        "日本/😀",
        "a:b@c,d$e",
        'q<x>"y"',
        ".hidden",
        "x" * 255,
    ],
)
def test_a_key_is_used_literally(store: Store, bucket: str, name: str) -> None:
    uri = f"s3://{bucket}/odd/{name}"
    store.write(uri, name.encode())
    assert store.read(uri) == store.read_range(uri, 0, 2000) == name.encode()
    assert [entry.uri for entry in store.list(f"s3://{bucket}/odd/")] == [uri]
    store.delete([uri])
    assert store.head(uri) is None


def test_a_folder_of_more_objects_than_a_page_holds_is_listed_in_order_and_deleted(
    store: Store, bucket: str
) -> None:
    uris = [f"s3://{bucket}/many/{number:04d}" for number in range(1001)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda uri: store.write(uri, b"x"), uris))
    assert [entry.uri for entry in store.list(f"s3://{bucket}/many/")] == uris
    assert store.delete(uris) == 1001
    assert store.list(f"s3://{bucket}/") == []
