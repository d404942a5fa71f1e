"""The files of the base model: names, digest, and download to the cache of the node."""

import fcntl
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import TextIO

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Digest, FailureClass, PreparePayload, Stage
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import generation_config
from finetune_trainer.models.model_check import INDEX, list_shards
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
    "chat_template.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
"""Names of the files of a tokenizer. The trainer needs tokenizer.json; other programs, such as llama.cpp,
also read the files of the vocabulary."""
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
"""Names of the files that describe the inputs of a model for texts and images."""
COPIED_FILES = (*TOKENIZER_FILES, *PROCESSOR_FILES, generation_config.FILE)
"""Names of the files that are copied from the base model to the tuned model."""
_LOCK_POLL_SECONDS = 0.2
"""Interval between two attempts to lock the cache."""


def list_model_files(names: frozenset[str], index: bytes | None, uri: str) -> tuple[str, ...]:
    """Lists the files of a model folder that the trainer reads: JSON and safetensors files only.

    Args:
        names: paths of the files below the folder.
        index: content of `model.safetensors.index.json`; None without this file.
        uri: URI of the folder.

    Raises:
        StageFailure: UserConfig, if a shard is missing or the index is damaged.
    """
    readable = {"config.json", *COPIED_FILES} | ({INDEX} if index is not None else set())
    return tuple(sorted((readable & names) | set(list_shards(names, index, uri))))


def copy_files(source: Path, folder: Path) -> None:
    """Copies the COPIED_FILES of a model to the folder of a model that is made from the first model.

    Args:
        source: folder with the files of the model.
        folder: folder to write to.
    """
    for name in COPIED_FILES:
        if (source / name).is_file():
            copyfile(source / name, folder / name)


def digest_of_files(digests: Mapping[str, Digest]) -> Digest:
    """Returns the digest of a model: the SHA-256 of the canonical JSON of {path: SHA-256 of the file}."""
    text = json.dumps(dict(digests), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def download(store: Store, uri: str, folder: Path, on_bytes: OnBytes = ignore_bytes) -> Digest:
    """Downloads the files of a model that the trainer reads, and returns the digest of the model.

    Args:
        store: store of the model.
        uri: URI of the model folder, ends in a slash.
        folder: local folder.
        on_bytes: called with the number of transferred bytes.
    """
    names = frozenset(entry.uri.removeprefix(uri) for entry in store.list(uri))
    index = store.read(uri + INDEX) if INDEX in names else None
    return digest_of_files(
        {
            name: store.download(uri + name, folder / name, on_bytes=on_bytes).digest
            for name in list_model_files(names, index, uri)
        }
    )


def fetch(config: TrainConfig, paths: Paths, on_bytes: OnBytes = ignore_bytes) -> tuple[Path, Digest]:
    """Provides the base model in the cache of the node, with the digest that Prepare recorded.

    If several processes of a node call this function, one process downloads and the other processes wait.

    Args:
        config: the configuration of the trainer.
        paths: paths of the pod.
        on_bytes: called with the number of transferred or verified bytes, and with 0 during the wait for
            another process.

    Returns:
        The folder and the digest of the model.

    Raises:
        StageFailure: Storage; UserConfig (ModelChanged) if the files have changed since Prepare.
    """
    output = open_store(config.run.stores.output, "output", paths)
    expected = _read_expected_digest(output, config)
    cache = paths.cache / "models"
    folder = cache / expected.removeprefix("sha256:")[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        while not _try_lock(lock):
            on_bytes(0)
            time.sleep(_LOCK_POLL_SECONDS)
        if _digest_cached_files(folder, on_bytes) == expected:
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


def _try_lock(file: TextIO) -> bool:
    """Tries to lock a file; returns False if another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _digest_cached_files(folder: Path, on_bytes: OnBytes) -> Digest | None:
    """Computes the digest of a cache folder from the files, because other jobs can write to the folder."""
    names = frozenset(path.name for path in folder.glob("*"))
    index = (folder / INDEX).read_bytes() if INDEX in names else None
    try:
        read = list_model_files(names, index, str(folder))
    except StageFailure:
        return None
    return digest_of_files({name: digest_of_file(folder / name, on_bytes) for name in read})


def _read_expected_digest(store: Store, config: TrainConfig) -> Digest:
    message = results.find(store, config, Stage.PREPARE)
    if message is None or not isinstance(message.payload, PreparePayload):
        raise StageFailure(
            FailureClass.STORAGE,
            "PrepareResultMissing",
            f"no result of Prepare with this configuration lies below {config.run.runs}attempts/",
            "something deleted it; apply the job again under another name",
        )
    return message.payload.model_digest
