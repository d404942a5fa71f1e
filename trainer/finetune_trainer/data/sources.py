"""IO: finds, downloads and opens the data files, and computes their digests."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune_trainer.config import Dataset, TrainSplit
from finetune_trainer.contract import Digest, FailureClass
from finetune_trainer.data.compression import unpacked
from finetune_trainer.data.doctor import Source, Unread, read_source
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.listing import (
    MOST_OBJECTS,
    check_apart,
    data_files,
    ignored_files,
    names,
    no_files,
    too_many_files,
)
from finetune_trainer.data.parquet import PARQUET_NAMES
from finetune_trainer.data.parquet_worker import Open, parquet_process
from finetune_trainer.data.readers import Opened, open_rows
from finetune_trainer.data.rows import Reader, RowWriter
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.store import Store


@dataclass(frozen=True)
class Found:
    """The files of a split, before they are fetched."""

    uris: tuple[str, ...]
    notes: tuple[Finding, ...]
    """What of its folders was ignored."""


@dataclass(frozen=True)
class DataFile:
    """A file of the data set on this machine's disk."""

    uri: str
    name: str
    """Path below the folder that all files of its split share."""
    path: Path
    digest: Digest
    size: int
    """Bytes."""


def uris_of(dataset: Dataset) -> dict[SplitName, dict[str, str]]:
    """The files and folders that each split names, by their fields; a share of the rows names nothing."""
    splits: dict[SplitName, TrainSplit] = {
        "train": dataset.train,
        "validation": dataset.validation,
        "test": dataset.test,
    }
    named = {name: _named(f"dataset.{name}", split) for name, split in splits.items()}
    return {name: uris for name, uris in named.items() if uris}


def _named(field: str, split: TrainSplit) -> dict[str, str]:
    if split.uri is not None:
        return {f"{field}.uri": split.uri}
    return {f"{field}.uris[{number}]": uri for number, uri in enumerate(split.uris)}


def find(store: Store, dataset: Dataset) -> dict[SplitName, Found]:
    """Looks into the folders that a data set names.

    Raises:
        StageFailure: NoFiles (a folder without data files), TooManyFiles, FileTwice.
    """
    found = {name: _split(store, named) for name, named in uris_of(dataset).items()}
    check_apart({name: split.uris for name, split in found.items()})
    return found


def fetch(
    store: Store, uris: Sequence[str], paths: Paths, on_bytes: OnBytes = ignore_bytes
) -> tuple[DataFile, ...]:
    """Downloads the files of a split into the scratch folder; `on_bytes` is told of the bytes that move."""
    return tuple(
        _fetched(store, uri, name, paths, on_bytes) for uri, name in zip(uris, names(uris), strict=True)
    )


def read(
    split: SplitName,
    files: Sequence[DataFile],
    wanted: Collection[str],
    reader: Reader,
    writer: RowWriter,
    on_progress: Callable[[int], None],
) -> Source:
    """Writes every usable row of a split's files to disk; bad rows and faulty files are in the result.

    Args:
        split: whose files they are.
        files: in the order in which their rows are counted.
        wanted: columns that the reader looks at; of a Parquet file no other is read.
        reader: makes an example of a row.
        writer: takes the usable rows.
        on_progress: told the rows read so far.
    """
    home = files[0].uri if len(files) == 1 else f"dataset.{split} ({len(files):,} files)"
    with parquet_process() as open_parquet:
        unread = [Unread(file.uri, file.name, partial(_opened, file, wanted, open_parquet)) for file in files]
        return read_source(home, unread, reader, writer, on_progress)


def _split(store: Store, named: Mapping[str, str]) -> Found:
    uris: list[str] = []
    notes: list[Finding] = []
    listed = 0
    for field, uri in named.items():
        if not uri.endswith("/"):
            uris.append(uri)
            continue
        below = [entry.uri for entry in store.list(uri, most=MOST_OBJECTS - listed + 1)]
        listed += len(below)
        if listed > MOST_OBJECTS:
            raise too_many_files(field, uri)
        taken, ignored = data_files(uri, below)
        if not taken:
            raise no_files(field, uri, ignored)
        uris += taken
        notes += ignored_files(field, uri, ignored)
    return Found(tuple(uris), tuple(notes))


def _fetched(store: Store, uri: str, name: str, paths: Paths, on_bytes: OnBytes) -> DataFile:
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


def _opened(file: DataFile, wanted: Collection[str], open_parquet: Open) -> Opened:
    if file.name.lower().endswith(PARQUET_NAMES):
        return open_parquet(file.path, wanted)
    return open_rows(unpacked(file.path), file.name)
