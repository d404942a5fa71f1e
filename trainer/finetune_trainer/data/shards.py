"""Tokenised rows in S3: written once by Prepare, read by every rank of every attempt. No torch here.

Folder: `<split>-<n>.safetensors` shards, then `index.json`, written last, with the SHA-256 of each shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from finetune_trainer.contract import Digest, FailureClass, Model
from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.lines import ONE_FILE, FileSpan, location
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.digests import OnBytes, digest_of_file, ignore_bytes
from finetune_trainer.s3.store import Store

INDEX = "index.json"
SHARD_TOKENS = 16 * 1024 * 1024
"""A shard is closed when it holds so many (64 MiB of tokens)."""


@dataclass(frozen=True)
class Split:
    """Rows of one split; row i has the tokens `tokens[offsets[i]:offsets[i + 1]]`."""

    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    """Length n + 1."""
    labels: npt.NDArray[np.int32]
    """Index into `Prepared.labels`, 0 for a task without classes; length n."""
    rows: npt.NDArray[np.int64]
    """1-based line of the row, counted on through the files of its split; length n."""
    loss_mask: npt.NDArray[np.bool_]
    """Which tokens are to be learnt, none for a task that learns no tokens; as long as `tokens`."""

    files: tuple[FileSpan, ...] = ONE_FILE
    """Where `rows` begin to count in which file."""

    def __len__(self) -> int:
        return len(self.labels)

    def location(self, index: int) -> tuple[str, int]:
        """File and 1-based line that a row comes from."""
        return location(int(self.rows[index]), self.files)

    def locations(self) -> list[tuple[str, int]]:
        """File and 1-based line that each row comes from."""
        return [self.location(index) for index in range(len(self))]

    def row(self, index: int) -> npt.NDArray[np.int32]:
        """The token ids of one row."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class Prepared:
    """Everything that training and evaluation read."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    """Class names; their order is the order of the head's outputs."""


class Shard(Model):
    """One file of a split."""

    file: Annotated[str, Field(pattern=r"^[a-z]+-[0-9]{5}\.safetensors$")]
    digest: Digest
    size: NonNegativeInt
    """Bytes."""
    rows: NonNegativeInt


class Index(Model):
    """What index.json says. It exists only beside all of its shards."""

    labels: tuple[str, ...]
    splits: dict[SplitName, tuple[Shard, ...]]
    files: dict[SplitName, tuple[FileSpan, ...]]
    """Of each split, in the order in which its rows are counted."""
    extra: dict[str, JsonValue] = {}
    """What Prepare keeps with the shards."""


def store_prepared(
    store: Store,
    folder: str,
    prepared: Prepared,
    extra: Mapping[str, JsonValue] | None = None,
    on_bytes: OnBytes = ignore_bytes,
) -> Index:
    """Writes the shards, then the index. Writing the same rows again gives the same bytes.

    Args:
        store: that gets the rows.
        folder: their URI, ends in a slash.
        prepared: the rows.
        extra: what index.json keeps beside them.
        on_bytes: is told of each shard that was written.
    """
    splits: dict[SplitName, tuple[Shard, ...]] = {}
    for name in get_args(SplitName):
        shards = []
        for number, part in enumerate(_parts(getattr(prepared, name))):
            data = save(_tensors(part))
            file = f"{name}-{number:05d}.safetensors"
            digest = store.write(folder + file, data).digest
            on_bytes(len(data))
            shards.append(Shard(file=file, digest=digest, size=len(data), rows=len(part)))
        splits[name] = tuple(shards)
    index = Index(
        labels=prepared.labels,
        splits=splits,
        files={name: getattr(prepared, name).files for name in get_args(SplitName)},
        extra=dict(extra or {}),
    )
    store.write(folder + INDEX, index.model_dump_json(by_alias=True).encode())
    return index


def read_index(store: Store, folder: str) -> Index | None:
    """The index of a complete folder whose shards are all still there; None if it is not complete."""
    there = {entry.uri: entry.size for entry in store.list(folder)}
    if folder + INDEX not in there:
        return None
    try:
        index = Index.model_validate_json(store.read(folder + INDEX))
    except ValidationError:
        return None
    shards = [shard for split in index.splits.values() for shard in split]
    return index if all(there.get(folder + shard.file) == shard.size for shard in shards) else None


def load_prepared(store: Store, folder: str, paths: Paths, on_bytes: OnBytes = ignore_bytes) -> Prepared:
    """Reads the shards through the node's cache; every byte is checked against the index.

    Args:
        store: that has the prepared rows.
        folder: their URI, ends in a slash.
        paths: of the cache.
        on_bytes: is told of the bytes that move or are checked.

    Raises:
        StageFailure: PreparedMissing (no complete folder), PreparedCorrupt (a digest or an array is wrong).
    """
    index = read_index(store, folder)
    if index is None:
        raise StageFailure(
            FailureClass.STORAGE,
            "PreparedMissing",
            f"{folder} holds no complete prepared data.",
            "Something deleted it; apply the job again under another name.",
        )
    cache = paths.cache / "prepared"
    train, validation, test = (
        replace(
            _joined([_fetch(store, folder, shard, cache, on_bytes) for shard in index.splits.get(name, ())]),
            files=index.files[name],
        )
        for name in get_args(SplitName)
    )
    return Prepared(train, validation, test, index.labels)


def _parts(split: Split) -> list[Split]:
    """Cuts at row ends so that a part holds about SHARD_TOKENS; a split without rows is one empty part."""
    marks = np.arange(0, max(1, len(split.tokens)), SHARD_TOKENS)
    cuts = sorted({*np.searchsorted(split.offsets, marks).tolist(), 0, len(split)})
    if cuts == [0]:
        return [split]
    return [
        Split(
            tokens=split.tokens[split.offsets[first] : split.offsets[last]],
            offsets=split.offsets[first : last + 1] - split.offsets[first],
            labels=split.labels[first:last],
            rows=split.rows[first:last],
            loss_mask=split.loss_mask[split.offsets[first] : split.offsets[last]],
        )
        for first, last in pairwise(cuts)
    ]


def _tensors(split: Split) -> dict[str, npt.NDArray[Any]]:
    return {
        "tokens": np.ascontiguousarray(split.tokens, dtype=np.int32),
        "offsets": np.ascontiguousarray(split.offsets, dtype=np.int64),
        "labels": np.ascontiguousarray(split.labels, dtype=np.int32),
        "rows": np.ascontiguousarray(split.rows, dtype=np.int64),
        "loss_mask": np.ascontiguousarray(split.loss_mask, dtype=np.bool_),
    }


def _fetch(store: Store, folder: str, shard: Shard, cache: Path, on_bytes: OnBytes) -> Split:
    # The name is the content's digest: what another job cached is either right or fetched again.
    path = cache / f"{shard.digest.removeprefix('sha256:')}.safetensors"
    if not path.exists() or digest_of_file(path, on_bytes) != shard.digest:
        got = store.download(folder + shard.file, path, on_bytes=on_bytes)
        if got.digest != shard.digest:
            path.unlink()
            raise _corrupt(folder + shard.file, f"its SHA-256 is {got.digest}, the index says {shard.digest}")
    try:
        tensors: dict[str, Any] = load_file(path)
        split = Split(
            **{name: tensors[name] for name in ("tokens", "offsets", "labels", "rows", "loss_mask")}
        )
    except (SafetensorError, KeyError) as error:
        raise _corrupt(folder + shard.file, str(error)) from None
    fits = len(split.offsets) == len(split) + 1 and split.offsets[-1] == len(split.tokens)
    if not fits or len(split.loss_mask) != len(split.tokens):
        raise _corrupt(folder + shard.file, "its arrays do not fit together")
    return split


def _joined(parts: list[Split]) -> Split:
    if not parts:
        empty = np.zeros(0, dtype=np.int32)
        return Split(
            tokens=empty,
            offsets=np.zeros(1, dtype=np.int64),
            labels=empty,
            rows=np.zeros(0, dtype=np.int64),
            loss_mask=np.zeros(0, dtype=np.bool_),
        )
    starts = np.cumsum([0, *(len(part.tokens) for part in parts)])
    return Split(
        tokens=np.concatenate([part.tokens for part in parts]),
        offsets=np.concatenate(
            [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)] + [starts[-1:]]
        ),
        labels=np.concatenate([part.labels for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        loss_mask=np.concatenate([part.loss_mask for part in parts]),
    )


def _corrupt(uri: str, why: str) -> StageFailure:
    return StageFailure(
        FailureClass.STORAGE,
        "PreparedCorrupt",
        f"{uri} is damaged: {why}.",
        "Check the store's disks; delete the object's folder and apply the job again.",
    )
