from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data import shard_writer, shards
from finetune_trainer.data.arrays import ConcatenatedArray, Ragged
from finetune_trainer.data.lines import ONE_FILE, FileSpan
from finetune_trainer.data.shard_writer import ShardWriter
from finetune_trainer.data.shards import Index, Prepared, Split, load_prepared, read_index, write_index
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store
from tests.trainer.stored import store_prepared


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


@pytest.mark.parametrize("shard_bytes", [1, 500, 10**6])
def test_rows_come_back_whatever_the_shards(
    store: Store,
    bucket: str,
    paths: Paths,
    prepared: Prepared,
    shard_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", shard_bytes)
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
    store.delete([folder + "train-00000.arrow"])
    with pytest.raises(StageFailure, match="PreparedMissing"):
        load_prepared(store, folder, paths)


def test_a_changed_byte_is_found(store: Store, bucket: str, paths: Paths, prepared: Prepared) -> None:
    folder = f"s3://{bucket}/prepared/x/"
    store_prepared(store, folder, prepared)
    shard = bytearray(store.read(folder + "train-00000.arrow"))
    shard[-1] ^= 1
    store.write(folder + "train-00000.arrow", bytes(shard))
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


def test_lists_are_mapped_and_not_copied(store: Store, bucket: str, paths: Paths, prepared: Prepared) -> None:
    folder = f"s3://{bucket}/prepared/x/"
    store_prepared(store, folder, prepared)
    before = pa.total_allocated_bytes()
    train = load_prepared(store, folder, paths).train
    assert pa.total_allocated_bytes() == before
    assert not train.row(3).flags.writeable
    assert not train.row(3).flags.owndata


def test_a_task_has_columns_of_its_own(store: Store, bucket: str, paths: Paths, tmp_path: Path) -> None:
    schema = pa.schema(
        [
            shards.ROW_FIELD,
            shards.TOKENS_FIELD,
            pa.field("starts", pa.list_(pa.int32())),
            pa.field("score", pa.float32()),
        ]
    )
    folder = f"s3://{bucket}/prepared/x/"
    batch = pa.RecordBatch.from_pydict(
        {"row": [4, 9], "tokens": [[1, 2], [3]], "starts": [[0], [1, 2]], "score": [0.5, 1.5]}, schema
    )
    with ShardWriter(store, folder, "train", schema, tmp_path) as writer:
        writer.write(batch)
        writer.write(batch)
        train = writer.finish()
    assert [(shard.rows, shard.tokens) for shard in train] == [(4, 6)]
    empty = dict.fromkeys(("validation", "test"), ())
    files = dict.fromkeys(("train", *empty), ONE_FILE)
    write_index(store, folder, Index(labels=(), splits={"train": train, **empty}, files=files))
    found = load_prepared(store, folder, paths).train
    assert found.rows.tolist() == [4, 9, 4, 9]
    assert found.row(3).tolist() == [3]
    assert not np.asarray(found.loss_mask).any()
    assert found.labels.tolist() == [0] * 4
    starts = found.more["starts"]
    assert isinstance(starts, Ragged)
    assert [starts[row].tolist() for row in range(4)] == [[0], [1, 2], [0], [1, 2]]
    assert np.asarray(found.more["score"]).tolist() == [0.5, 1.5, 0.5, 1.5]


@given(st.lists(st.integers(0, 5), max_size=6), st.data())
def test_arrays_laid_end_to_end_are_sliced_as_one(lengths: list[int], draw: st.DataObject) -> None:
    parts = [np.arange(length) + 10 * number for number, length in enumerate(lengths)]
    flat, whole = ConcatenatedArray(parts, np.int64), np.concatenate([np.zeros(0, np.int64), *parts])
    where = slice(draw.draw(st.integers(0, 30)), draw.draw(st.integers(0, 30)))
    assert len(flat) == len(whole)
    assert flat[where].tolist() == whole[where].tolist()
    assert np.array_equal(flat, whole)
