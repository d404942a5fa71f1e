"""The base model's files: which are read, what digest they have, how they come to this node."""

import fcntl
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Digest, FailureClass, PreparePayload, Stage
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.model_check import INDEX, shards
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import results
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


def download(store: Store, uri: str, folder: Path) -> Digest:
    """Downloads the files that are read into an empty folder. Returns the model's digest."""
    names = frozenset(entry.uri.removeprefix(uri) for entry in store.list(uri))
    index = store.read(uri + INDEX) if INDEX in names else None
    return digest_of_files(
        {name: store.download(uri + name, folder / name).digest for name in files_read(names, index, uri)}
    )


def fetch(config: TrainConfig, paths: Paths) -> tuple[Path, Digest]:
    """The base model's folder in this node's cache, exactly as Prepare saw it, and its digest.

    Processes of one node that call this at once wait for the first of them.

    Raises:
        StageFailure: Storage; UserConfig (ModelChanged) if the files are others now.
    """
    output = open_store(config.run.stores.output, "output", paths)
    expected = _expected(output, config)
    cache = paths.cache / "models"
    folder = cache / expected.removeprefix("sha256:")[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _cached(folder) == expected:
            return folder, expected
        store = open_store(config.run.stores.model, "model", paths)
        uri = config.run.model.uri.rstrip("/") + "/"
        found = download(store, uri, folder)
    if found != expected:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ModelChanged",
            f"model.uri: the files below {uri} are not those that Prepare checked ({found}, not {expected})",
            "do not change a model while a job uses it; apply the job again under another name",
        )
    return folder, expected


def _cached(folder: Path) -> Digest | None:
    """The digest of what lies in a cache folder; other jobs may have written there, so it is read again."""
    names = frozenset(path.name for path in folder.glob("*"))
    index = (folder / INDEX).read_bytes() if INDEX in names else None
    try:
        read = files_read(names, index, str(folder))
    except StageFailure:
        return None
    return digest_of_files({name: _digest(folder / name) for name in read})


def _digest(path: Path) -> Digest:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


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
