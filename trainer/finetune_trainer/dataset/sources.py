"""IO: the data files, fetched once, digested on the way, read row by row."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.config import Dataset
from finetune_trainer.contract import Digest
from finetune_trainer.dataset.doctor import Reader, Source, read_source
from finetune_trainer.dataset.findings import SplitName
from finetune_trainer.dataset.rows import FileFaultError, open_rows
from finetune_trainer.places import Places
from finetune_trainer.s3.store import Store
from finetune_trainer.s3.uris import parse

_PIECE = 1024 * 1024


@dataclass(frozen=True)
class DataFile:
    """A file of the data set on this machine's disk."""

    uri: str
    path: Path
    digest: Digest
    size: int
    """Bytes."""


def uris_of(dataset: Dataset) -> dict[SplitName, str]:
    """The files that a data set names; a share of the training rows has none."""
    named: dict[SplitName, str | None] = {
        "train": dataset.train.uri,
        "validation": dataset.validation.uri,
        "test": dataset.test.uri,
    }
    return {name: uri for name, uri in named.items() if uri is not None}


def fetch(store: Store, uri: str, places: Places) -> DataFile:
    """Downloads one file into the scratch folder."""
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    path = places.scratch / "data" / name
    transfer = store.download(uri, path)
    return DataFile(uri, path, transfer.digest, transfer.size)


def read(file: DataFile, reader: Reader) -> Source:
    """Every row of a file, the bad ones with their reasons; a fault of the whole file is in the result."""
    try:
        return read_source(file.uri, open_rows(_pieces(file.path), parse(file.uri).name), reader)
    except FileFaultError as error:
        return Source(file.uri, fault=str(error))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
