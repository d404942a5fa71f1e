from dataclasses import replace

import numpy as np
import pytest

from finetune_trainer.data import shards
from finetune_trainer.data.lines import FileSpan
from finetune_trainer.data.shards import Prepared, Split, load_prepared, read_index, store_prepared
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store


def split(rows: int, seed: int = 0) -> Split:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 9, rows)
    return Split(
        tokens=random.integers(0, 30000, lengths.sum(), dtype=np.int32),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        labels=random.integers(0, 3, rows, dtype=np.int32),
        rows=np.arange(1, rows + 1, dtype=np.int64),
        loss_mask=random.integers(0, 2, lengths.sum()).astype(np.bool_),
    )


FILES = (FileSpan(file="a.csv", before=0), FileSpan(file="b.parquet", before=99))


def same(one: Split, other: Split) -> bool:
    fields = ("tokens", "offsets", "labels", "rows", "loss_mask")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)


@pytest.fixture
def prepared() -> Prepared:
    return Prepared(replace(split(100), files=FILES), split(7, 1), split(0, 2), ("a", "b", "ü"))


@pytest.mark.parametrize("shard_tokens", [1, 50, 10**6])
def test_rows_come_back_whatever_the_shards(
    store: Store,
    bucket: str,
    paths: Paths,
    prepared: Prepared,
    shard_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "SHARD_TOKENS", shard_tokens)
    folder = f"s3://{bucket}/prepared/x/"
    store_prepared(store, folder, prepared, {"note": 1})
    back = load_prepared(store, folder, paths)
    assert same(back.train, prepared.train)
    assert same(back.validation, prepared.validation)
    assert same(back.test, prepared.test)
    assert back.labels == prepared.labels
    assert [back.train.location(row) for row in (0, 98, 99)] == [
        ("a.csv", 1),
        ("a.csv", 99),
        ("b.parquet", 1),
    ]
    index = read_index(store, folder)
    assert index is not None
    assert index.extra == {"note": 1}


def test_a_folder_without_all_its_shards_does_not_exist(
    store: Store, bucket: str, paths: Paths, prepared: Prepared
) -> None:
    folder = f"s3://{bucket}/prepared/x/"
    assert read_index(store, folder) is None
    store_prepared(store, folder, prepared)
    store.delete([folder + "train-00000.safetensors"])
    with pytest.raises(StageFailure, match="PreparedMissing"):
        load_prepared(store, folder, paths)


def test_a_changed_byte_is_found(store: Store, bucket: str, paths: Paths, prepared: Prepared) -> None:
    folder = f"s3://{bucket}/prepared/x/"
    store_prepared(store, folder, prepared)
    shard = bytearray(store.read(folder + "train-00000.safetensors"))
    shard[-1] ^= 1
    store.write(folder + "train-00000.safetensors", bytes(shard))
    with pytest.raises(StageFailure, match="PreparedCorrupt"):
        load_prepared(store, folder, paths)


def test_a_damaged_cache_is_fetched_again(
    store: Store, bucket: str, paths: Paths, prepared: Prepared
) -> None:
    folder = f"s3://{bucket}/prepared/x/"
    store_prepared(store, folder, prepared)
    load_prepared(store, folder, paths)
    for path in (paths.cache / "prepared").iterdir():
        path.write_bytes(b"damaged")
    assert same(load_prepared(store, folder, paths).train, prepared.train)
