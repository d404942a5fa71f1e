"""IO: finds, downloads and opens the files of a data set."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from finetune_trainer.config import Dataset, TrainSplit
from finetune_trainer.contract import Digest, FailureClass
from finetune_trainer.data.compression import decompress
from finetune_trainer.data.file_rows import OpenedFile
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.listing import (
    MAX_OBJECTS,
    check_distinct,
    no_files,
    report_ignored_files,
    select_data_files,
    shorten_uris,
    too_many_files,
)
from finetune_trainer.data.parquet import PARQUET_NAMES
from finetune_trainer.data.parquet_worker import Open, parquet_process
from finetune_trainer.data.readers import open_rows
from finetune_trainer.data.rows import ReadRow, RowWriter
from finetune_trainer.data.source_reader import Source, SourceFile, read_source
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.store import Store


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split in the store."""

    uris: tuple[str, ...]
    notes: tuple[Finding, ...]
    """Warnings about ignored objects in the folders of the split."""


@dataclass(frozen=True)
class DataFile:
    """A downloaded file of the data set."""

    uri: str
    name: str
    """Path below the folder that all files of the split share."""
    path: Path
    digest: Digest
    size: int
    """Bytes."""


def list_uris(dataset: Dataset) -> dict[SplitName, dict[str, str]]:
    """Returns the URIs of each split that has URIs, by the name of the field in the job."""
    splits: dict[SplitName, TrainSplit] = {
        "train": dataset.train,
        "validation": dataset.validation,
        "test": dataset.test,
    }
    named = {name: _list_split_uris(f"dataset.{name}", split) for name, split in splits.items()}
    return {name: uris for name, uris in named.items() if uris}


def _list_split_uris(field: str, split: TrainSplit) -> dict[str, str]:
    if split.uri is not None:
        return {f"{field}.uri": split.uri}
    return {f"{field}.uris[{number}]": uri for number, uri in enumerate(split.uris)}


def find_files(store: Store, dataset: Dataset) -> dict[SplitName, SplitFiles]:
    """Lists the folders of a data set and finds the files of each split.

    Args:
        store: store of the data set.
        dataset: files and folders of the splits.

    Raises:
        StageFailure: NoFiles (a folder without data files), TooManyFiles, FileTwice.
    """
    found = {name: _find_split_files(store, named) for name, named in list_uris(dataset).items()}
    check_distinct({name: split.uris for name, split in found.items()})
    return found


def download_files(
    store: Store, uris: Sequence[str], paths: Paths, on_bytes: OnBytes = ignore_bytes
) -> tuple[DataFile, ...]:
    """Downloads the files of a split to the scratch folder.

    Args:
        store: store of the data set.
        uris: URIs of the files.
        paths: paths of the pod.
        on_bytes: called with the number of transferred bytes.

    Raises:
        StageFailure: ObjectMissing, Storage.
    """
    return tuple(
        _download_file(store, uri, name, paths, on_bytes)
        for uri, name in zip(uris, shorten_uris(uris), strict=True)
    )


def read_split(
    split: SplitName,
    files: Sequence[DataFile],
    wanted: Collection[str],
    reader: ReadRow,
    writer: RowWriter,
    on_progress: Callable[[float], None],
) -> Source:
    """Reads all rows of the files of a split, and writes the usable rows to disk.

    Args:
        split: name of the split.
        files: the files, in the order in which their rows are numbered.
        wanted: columns that `reader` needs; other columns of a Parquet file are not read.
        reader: converts the values of a row to an example.
        writer: receives the usable rows.
        on_progress: called after every row with the number of bytes of the files that were read so far.
    """
    home = files[0].uri if len(files) == 1 else f"dataset.{split} ({len(files):,} files)"
    with parquet_process() as open_parquet:
        unread = [
            SourceFile(file.uri, file.name, partial(_open_file, file, wanted, open_parquet), file.size)
            for file in files
        ]
        return read_source(home, unread, reader, writer, on_progress)


def _find_split_files(store: Store, named: Mapping[str, str]) -> SplitFiles:
    uris: list[str] = []
    notes: list[Finding] = []
    listed = 0
    for field, uri in named.items():
        if not uri.endswith("/"):
            uris.append(uri)
            continue
        below = [entry.uri for entry in store.list(uri, most=MAX_OBJECTS - listed + 1)]
        listed += len(below)
        if listed > MAX_OBJECTS:
            raise too_many_files(field, uri)
        selected, ignored = select_data_files(uri, below)
        if not selected:
            raise no_files(field, uri, ignored)
        uris += selected
        notes += report_ignored_files(field, uri, ignored)
    return SplitFiles(tuple(uris), tuple(notes))


def _download_file(store: Store, uri: str, name: str, paths: Paths, on_bytes: OnBytes) -> DataFile:
    path = paths.scratch / "data" / hashlib.sha256(uri.encode()).hexdigest()[:16]
    try:
        transfer = store.download(uri, path, on_bytes=on_bytes)
    except StageFailure as failure:
        if failure.reason == "ObjectMissing" and store.list(f"{uri}/", most=1):
            raise StageFailure(
                FailureClass.USER_CONFIG,
                "ObjectMissing",
                f"{uri} is a folder, not a file.",
                "End its uri with a slash.",
            ) from None
        raise
    return DataFile(uri, name, path, transfer.digest, transfer.size)


def _open_file(file: DataFile, wanted: Collection[str], open_parquet: Open) -> OpenedFile:
    if file.name.lower().endswith(PARQUET_NAMES):
        return open_parquet(file.path, wanted)
    position = 0

    def moved(to: int) -> None:
        nonlocal position
        position = to

    return replace(open_rows(decompress(file.path, moved), file.name), position=lambda: position)
