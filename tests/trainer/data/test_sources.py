import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.config import Dataset
from finetune_trainer.data import sources
from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.rows import RowWriter, Strata
from finetune_trainer.data.source_reader import Source
from finetune_trainer.data.sources import DataFile
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store
from tests.trainer.data.written import FORMATS

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1)


def dataset(bucket: str, **splits: str | list[str] | float) -> Dataset:
    """A data set whose splits are a uri, several, or a share; `/` stands for the bucket."""

    def split(value: str | list[str] | float) -> dict[str, Any]:
        match value:
            case float():
                return {"split": value}
            case str():
                return {"uri": f"s3://{bucket}{value}"}
            case _:
                return {"uris": [f"s3://{bucket}{each}" for each in value]}

    given: dict[str, str | list[str] | float] = {"train": "/train/", "validation": 0.1, "test": 0.1, **splits}
    return Dataset.model_validate({name: split(value) for name, value in given.items()})


def refused(store: Store, asked: Dataset) -> StageFailure:
    with pytest.raises(StageFailure) as failure:
        sources.find_files(store, asked)
    return failure.value


@pytest.fixture
def put(store: Store, bucket: str) -> Any:
    def write(*keys: str) -> None:
        for key in keys:
            store.write(f"s3://{bucket}/{key}", f"content of {key}".encode())

    return write


def test_a_split_names_its_uris_by_their_fields() -> None:
    asked = dataset("d", train=["/a/", "/b.csv"], test="/c.csv")
    assert sources.list_uris(asked) == {
        "train": {"dataset.train.uris[0]": "s3://d/a/", "dataset.train.uris[1]": "s3://d/b.csv"},
        "test": {"dataset.test.uri": "s3://d/c.csv"},
    }


def test_a_folder_is_every_data_file_below_it_in_the_order_of_keys(
    store: Store, bucket: str, put: Any
) -> None:
    put("train/b.csv", "train/a/z.parquet", "train/_SUCCESS", "train/README.md", "train-other/x.csv")
    found = sources.find_files(store, dataset(bucket))["train"]
    home = f"s3://{bucket}/train/"
    assert found.uris == (f"{home}a/z.parquet", f"{home}b.csv")
    (note,) = found.notes
    assert (note.level, note.code, note.file, note.count) == ("warning", "FilesIgnored", home, 2)
    assert note.lines == ("README.md", "_SUCCESS")
    assert note.message.startswith("dataset.train.uri: 2 objects below")


def test_several_uris_are_read_in_the_order_in_which_they_are_named(
    store: Store, bucket: str, put: Any
) -> None:
    put("train/2.csv", "train/1.csv", "z.csv", "a.csv", "test/t.csv")
    found = sources.find_files(store, dataset(bucket, train=["/z.csv", "/train/", "/a.csv"], test=["/test/"]))
    home = f"s3://{bucket}"
    assert found["train"].uris == (
        f"{home}/z.csv",
        f"{home}/train/1.csv",
        f"{home}/train/2.csv",
        f"{home}/a.csv",
    )
    assert found["test"].uris == (f"{home}/test/t.csv",)
    assert "validation" not in found


def test_a_whole_bucket_is_a_folder(store: Store, bucket: str, put: Any) -> None:
    put("a.csv")
    assert sources.find_files(store, dataset(bucket, train="/"))["train"].uris == (f"s3://{bucket}/a.csv",)


def test_a_folder_without_data_files_is_refused_and_says_what_is_there(
    store: Store, bucket: str, put: Any
) -> None:
    failure = refused(store, dataset(bucket))
    assert failure.reason == "NoFiles"
    assert failure.message == f"dataset.train.uri: there is no data file below s3://{bucket}/train/."
    put(*(f"train/{name}.txt" for name in "abcdefg"))
    failure = refused(store, dataset(bucket, train=["/x.csv", "/train/"]))
    assert failure.message.startswith("dataset.train.uris[1]: there is no data file")
    assert "among its 7 objects (a.txt, b.txt, c.txt, d.txt, e.txt, ...)" in failure.message
    assert ".parquet" in failure.hint


def test_too_many_objects_are_refused_before_they_are_fetched(
    store: Store, bucket: str, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_OBJECTS", 3)
    put("train/1.csv", "train/2.csv", "more/3.csv")
    assert len(sources.find_files(store, dataset(bucket, train=["/train/", "/more/"]))["train"].uris) == 3
    put("more/_SUCCESS")
    failure = refused(store, dataset(bucket, train=["/train/", "/more/"]))
    assert failure.reason == "TooManyFiles"
    assert failure.message.startswith(f"dataset.train.uris[1]: with s3://{bucket}/more/")


def test_a_file_in_two_splits_or_twice_in_one_is_refused(store: Store, bucket: str, put: Any) -> None:
    put("train/a.csv")
    failure = refused(store, dataset(bucket, test="/train/a.csv"))
    assert failure.reason == "FileTwice"
    assert failure.message == f"dataset.train and dataset.test both hold s3://{bucket}/train/a.csv."
    failure = refused(store, dataset(bucket, train=["/train/a.csv", "/train/"]))
    assert failure.message == f"dataset.train holds twice s3://{bucket}/train/a.csv."


def test_files_are_fetched_with_their_digests_and_called_by_what_tells_them_apart(
    store: Store, bucket: str, paths: Paths, put: Any
) -> None:
    put("train/y=1/part-0.csv", "train/y=2/part-0.csv")
    uris = sources.find_files(store, dataset(bucket))["train"].uris
    first, second = sources.download_files(store, uris, paths)
    assert (first.name, second.name) == ("y=1/part-0.csv", "y=2/part-0.csv")
    assert first.path.read_bytes() == b"content of train/y=1/part-0.csv"
    assert (first.size, first.digest != second.digest) == (31, True)


def test_a_folder_that_is_named_like_a_file_is_explained(
    store: Store, bucket: str, paths: Paths, put: Any
) -> None:
    put("train/a.csv")
    for uri, says in ((f"s3://{bucket}/train", "is a folder, not a file"), (f"s3://{bucket}/x", "not exist")):
        with pytest.raises(StageFailure, match=says) as failure:
            sources.download_files(store, [uri], paths)
        assert failure.value.reason == "ObjectMissing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def on_disk(folder: Path, files: Mapping[str, bytes]) -> list[DataFile]:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [
        DataFile(f"s3://data/{name}", name, folder / name, "sha256:" + "0" * 64, len(data))
        for name, data in files.items()
    ]


@dataclass(frozen=True)
class Kept:
    line: int
    values: dict[str, Any]
    key = identity = stratum = excerpt = raw_stratum = ""


def read(split: SplitName, files: list[DataFile], wanted: set[str]) -> tuple[Source, list[Kept]]:
    """What the files hold, and the usable rows."""
    writer = RowWriter(files[0].path.parent / "usable.arrow", Strata(), frozenset(wanted))
    source = sources.read_split(
        split, files, wanted, lambda line, values: Kept(line, dict(values)), writer, lambda _: None
    )
    return source, source.usable.all_rows().first(10_000)


@settings(max_examples=20)  # each starts a process for its Parquet
@given(st.lists(st.fixed_dictionaries({"text": CELL, "label": CELL}), min_size=1, max_size=150))
def test_rows_are_the_same_in_every_format_and_compression(folder: Path, rows: list[dict[str, str]]) -> None:
    for name, write in FORMATS.items():
        files = on_disk(folder, {name: write(rows)})
        source, usable = read("train", files, {"text", "label"})
        assert (source.home, source.bad.count, source.files[0].fault) == (f"s3://data/{name}", 0, "")
        assert [row.values for row in usable] == rows, name


def test_files_of_one_split_may_have_different_formats(folder: Path) -> None:
    rows = [{"text": str(number), "label": "a"} for number in range(3)]
    files = on_disk(folder, {name: write(rows) for name, write in FORMATS.items()})
    source, usable = read("train", files, {"text", "label"})
    assert source.home == f"dataset.train ({len(FORMATS)} files)"
    assert [row.values for row in usable] == rows * len(FORMATS)
    said = [str(row.line) for row in usable]
    assert said[:4] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3", "rows.ndjson.gz:1"]
    assert said[-6:] == [f"rows.tsv.zst:{line}" for line in (2, 3, 4)] + [
        f"rows.parquet:{line}" for line in (1, 2, 3)
    ]


def test_progress_goes_from_the_start_to_the_size_of_all_files_in_every_format(folder: Path) -> None:
    rows = [{"text": hashlib.sha256(b"%d" % number).hexdigest() * 4, "label": "a"} for number in range(6000)]
    for name, write in FORMATS.items():
        files = on_disk(folder, {name: write(rows), f"again-{name}": write(rows)})
        total = sum(file.size for file in files)
        said: list[float] = []
        writer = RowWriter(folder / "usable.arrow", Strata(), frozenset({"text", "label"}))
        sources.read_split(
            "train", files, {"text"}, lambda line, values: Kept(line, dict(values)), writer, said.append
        )
        assert len(said) == len(rows) * 2, name
        assert said == sorted(said), name
        assert 0 < said[0] <= 0.5 * total, name
        assert said[-1] == pytest.approx(total, rel=0.01), name
        # A step is a chunk of 1 MiB of a text file (at least one for each file), or a row of a Parquet file.
        assert len(set(said)) >= 2, name


def test_a_file_that_cannot_be_read_is_a_fault_of_that_file(folder: Path) -> None:
    good = FORMATS["rows.jsonl"]([{"text": "a", "label": "b"}])
    files = on_disk(folder, {"a.parquet": b"nothing", "b.jsonl": good, "c.jsonl.gz": b"\x1f\x8bnothing"})
    source, usable = read("test", files, {"text"})
    assert ["no Parquet" in file.fault or "damaged" in file.fault for file in source.files] == [
        True,
        False,
        True,
    ]
    assert [str(row.line) for row in usable] == ["b.jsonl:1"]
