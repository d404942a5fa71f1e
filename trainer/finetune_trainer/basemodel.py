"""IO: the base model's folder in S3, checked from outside, then fetched whole into the cache."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer import modelcheck
from finetune_trainer.contract import Digest, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.places import Places
from finetune_trainer.store import ObjectInfo, Store

_SMALL_FILES = (".json", ".txt", ".model")
_MAX_JSON_BYTES = 64 * 1024 * 1024
_DIGESTS = ".digests.json"


@dataclass(frozen=True)
class Inspection:
    """What the folder says of itself; no weight was read."""

    config: dict[str, Any]
    parameters: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class BaseModel:
    """The model on this machine's disk."""

    folder: Path
    """Configuration, tokenizer and weights; nothing else of the folder in S3."""
    digest: Digest
    """SHA-256 over name, size and SHA-256 of each file, in the order of names."""


def inspect(store: Store, uri: str, known: frozenset[str]) -> Inspection:
    """Checks a model folder by its listing, its JSON files and the headers of its weights.

    Args:
        store: that holds it.
        uri: of the folder, with or without the last slash.
        known: model types that can be used.

    Raises:
        StageFailure: every reason of modelcheck.py, and those of the store.
    """
    folder = _folder(uri)
    there = _listing(store, folder)
    names = frozenset(there)
    warnings = modelcheck.check_names(names, folder)
    config = modelcheck.check_config(store.read(folder + "config.json", _MAX_JSON_BYTES), folder, known)
    parameters = 0
    for name in modelcheck.shards(names, _index(store, folder, names), folder):
        size, file = there[name].size, folder + name
        length = modelcheck.header_length(store.read_range(file, 0, 8) if size else b"", size, file)
        header = store.read_range(file, 8, length) if length else b""
        parameters += modelcheck.header(header, size, file).parameters
    return Inspection(config, parameters, tuple(warnings))


def fetch(store: Store, uri: str, places: Places) -> BaseModel:
    """Downloads what a model is read from; what the cache already has is used if its digests still match.

    Raises:
        StageFailure: ModelShardMissing, ModelCorrupt, and those of the store.
    """
    folder = _folder(uri)
    there = _listing(store, folder)
    shards = modelcheck.shards(frozenset(there), _index(store, folder, frozenset(there)), folder)
    wanted = sorted({*shards, *(name for name in there if "/" not in name and name.endswith(_SMALL_FILES))})
    version = [[store.endpoint, there[name].uri, there[name].size, there[name].etag] for name in wanted]
    target = places.cache / "models" / hashlib.sha256(json.dumps(version).encode()).hexdigest()
    digests = _cached(target, wanted)
    if digests is None:
        digests = {name: store.download(there[name].uri, target / name).digest for name in wanted}
        (target / _DIGESTS).write_text(json.dumps(digests))
    facts = [[name, there[name].size, digests[name]] for name in wanted]
    return BaseModel(target, "sha256:" + hashlib.sha256(json.dumps(facts).encode()).hexdigest())


def _cached(target: Path, wanted: list[str]) -> dict[str, str] | None:
    """Digests of the cached files if all are there and unharmed."""
    try:
        digests: dict[str, str] = json.loads((target / _DIGESTS).read_text())
        if all(digests[name] == _digest(target / name) for name in wanted):
            return digests
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _folder(uri: str) -> str:
    return uri if uri.endswith("/") else uri + "/"


def _listing(store: Store, folder: str) -> dict[str, ObjectInfo]:
    """Objects below the folder by their path in it; markers of empty folders are none."""
    entries = store.list(folder)
    there = {entry.uri.removeprefix(folder): entry for entry in entries if not entry.uri.endswith("/")}
    unsafe = next((name for name in there if ".." in name.split("/")), None)
    if unsafe is not None:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ModelCorrupt",
            f"{folder} holds an object named {unsafe[:100]!r}.",
            "Upload the model's folder as it is on disk.",
        )
    return there


def _index(store: Store, folder: str, names: frozenset[str]) -> bytes | None:
    if modelcheck.INDEX not in names:
        return None
    return store.read(folder + modelcheck.INDEX, _MAX_JSON_BYTES)
