import hashlib
import os
from pathlib import Path

from finetune_trainer.store import RANGE_BYTES, Store


def test_a_small_object_comes_back_as_written(store: Store, bucket: str) -> None:
    uri = f"s3://{bucket}/a/b c/ü.json"
    sent = store.write(uri, b"{}")
    assert store.read(uri) == b"{}"
    assert sent.digest == "sha256:" + hashlib.sha256(b"{}").hexdigest()


def test_a_large_file_travels_in_parts_and_is_digested_on_the_way(
    store: Store, bucket: str, tmp_path: Path
) -> None:
    content = os.urandom(2 * RANGE_BYTES + 12345)
    (tmp_path / "large").write_bytes(content)
    uri = f"s3://{bucket}/large"
    sent = store.upload(tmp_path / "large", uri)
    got = store.download(uri, tmp_path / "back")
    assert sent == got
    assert got.size == len(content)
    assert got.digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert (tmp_path / "back").read_bytes() == content
