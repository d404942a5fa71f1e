"""The files of the base model: names, digest, and download to the cache of the node."""

import fcntl
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Digest, FailureClass, PreparePayload, Stage
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.model_check import INDEX, shards
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import results
from finetune_trainer.s3.digests import OnBytes, digest_of_file, ignore_bytes
from finetune_trainer.s3.store import Store, open_store

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""What a fast tokenizer may consist of."""
COPIED_FILES = (*TOKENIZER_FILES, "generation_config.json")
"""Copied as they are from the base model to the tuned one."""
_LOOK_SECONDS = 0.2
"""Time between two tries to lock the cache."""


def files_read(names: frozenset[str], index: bytes | None, uri: str) -> tuple[str, ...]:
    """The files of a model's folder that are ever read: JSON and safetensors, nothing else.

    Args:
        names: paths below the folder.
        index: the content of `model.safetensors.index.json`, if there is one.
        uri: of the folder.

    Raises:
        StageFailure: UserConfig, a shard is missing or the index is damaged.
    """
    known = {"config.json", *COPIED_FILES} | ({INDEX} if index is not None else set())
    return tuple(sorted((known & names) | set(shards(names, index, uri))))


def digest_of_files(digests: Mapping[str, Digest]) -> Digest:
    """The model's digest: SHA-256 of the canonical JSON of {path: SHA-256 of the file}."""
    text = json.dumps(dict(digests), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def download(store: Store, uri: str, folder: Path, on_bytes: OnBytes = ignore_bytes) -> Digest:
    """Downloads the files that are read into an empty folder. Returns the model's digest.

    Args:
        store: that has the model.
        uri: of the model's folder, ends in a slash.
        folder: on the disk.
        on_bytes: is told of the bytes that move.
    """
    names = frozenset(entry.uri.removeprefix(uri) for entry in store.list(uri))
    index = store.read(uri + INDEX) if INDEX in names else None
    return digest_of_files(
        {
            name: store.download(uri + name, folder / name, on_bytes=on_bytes).digest
            for name in files_read(names, index, uri)
        }
    )


def fetch(config: TrainConfig, paths: Paths, on_bytes: OnBytes = ignore_bytes) -> tuple[Path, Digest]:
    """The base model's folder in this node's cache, exactly as Prepare saw it, and its digest.

    Processes of one node that call this at once wait for the first of them.

    Args:
        config: the trainer's input.
        paths: of the cache and the credentials.
        on_bytes: is told of the bytes that move or are checked, and of 0 bytes during the wait for another
            process.

    Raises:
        StageFailure: Storage; UserConfig (ModelChanged) if the files are others now.
    """
    output = open_store(config.run.stores.output, "output", paths)
    expected = _expected(output, config)
    cache = paths.cache / "models"
    folder = cache / expected.removeprefix("sha256:")[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        while not _locked(lock):
            on_bytes(0)
            time.sleep(_LOOK_SECONDS)
        if _cached(folder, on_bytes) == expected:
            return folder, expected
        store = open_store(config.run.stores.model, "model", paths)
        uri = config.run.model.uri.rstrip("/") + "/"
        found = download(store, uri, folder, on_bytes)
    if found != expected:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ModelChanged",
            f"model.uri: the files below {uri} are not those that Prepare checked ({found}, not {expected})",
            "do not change a model while a job uses it; apply the job again under another name",
        )
    return folder, expected


def _locked(file: TextIO) -> bool:
    """Locks a file; False where another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _cached(folder: Path, on_bytes: OnBytes) -> Digest | None:
    """The digest of what lies in a cache folder; other jobs may have written there, so it is read again."""
    names = frozenset(path.name for path in folder.glob("*"))
    index = (folder / INDEX).read_bytes() if INDEX in names else None
    try:
        read = files_read(names, index, str(folder))
    except StageFailure:
        return None
    return digest_of_files({name: digest_of_file(folder / name, on_bytes) for name in read})


def _expected(store: Store, config: TrainConfig) -> Digest:
    message = results.find(store, config, Stage.PREPARE)
    if message is None or not isinstance(message.payload, PreparePayload):
        raise StageFailure(
            FailureClass.STORAGE,
            "PrepareResultMissing",
            f"no result of Prepare with this configuration lies below {config.run.runs}attempts/",
            "something deleted it; apply the job again under another name",
        )
    return message.payload.model_digest
