"""IO: lists the checkpoints of a run, and reads their manifests."""

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_trainer.checkpoints.documents import MANIFEST, CheckpointManifest
from finetune_trainer.checkpoints.reading import DAMAGED
from finetune_trainer.checkpoints.retention import newest_first
from finetune_trainer.contract import CheckpointRef, Digest
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.store import Store

log = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9]{8}-[0-9]+-[0-9a-zA-Z-]+")


def all_checkpoints(runs: str) -> str:
    """URI of the folder of the checkpoints of all identities, with a slash at the end.

    Args:
        runs: folder of the files of the run, with a slash at the end.
    """
    return f"{runs}checkpoints/"


def folder_of(runs: str, identity: Digest) -> str:
    """URI of the folder of all checkpoints of a run, with a slash at the end.

    Args:
        runs: folder of the files of the run, with a slash at the end.
        identity: see documents.Identity.
    """
    return f"{all_checkpoints(runs)}{identity.removeprefix('sha256:')[:16]}/"


@dataclass(frozen=True)
class Listing:
    """The names of the folders of checkpoints."""

    complete: frozenset[str]
    """Folders with a manifest."""
    incomplete: frozenset[str]
    """Folders without a manifest."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    name: str
    manifest: CheckpointManifest
    ref: CheckpointRef


def list_checkpoints(store: Store, root: str) -> Listing:
    """Lists the folders of checkpoints.

    Args:
        store: the output store.
        root: folder of the checkpoints of the run, with a slash at the end.
    """
    objects = [entry.uri.removeprefix(root).split("/") for entry in store.list(root)]
    names = {parts[0] for parts in objects if _NAME.fullmatch(parts[0])}
    complete = {parts[0] for parts in objects if parts[1:] == [MANIFEST]} & names
    return Listing(frozenset(complete), frozenset(names - complete))


def usable(store: Store, root: str, identity: Digest) -> Iterator[Checkpoint]:
    """Yields the complete checkpoints, newest first.

    A checkpoint whose manifest cannot be read, or whose best checkpoint is gone, is left out.

    Args:
        store: the output store.
        root: folder of the checkpoints of the run, with a slash at the end.
        identity: see documents.Identity.
    """
    complete = list_checkpoints(store, root).complete
    for name in newest_first(complete):
        checkpoint = read_checkpoint(store, root, name)
        if checkpoint is None or checkpoint.manifest.identity != identity:
            log.warning("%s%s/%s cannot be read; trying the checkpoint before", root, name, MANIFEST)
        elif checkpoint.manifest.best and checkpoint.manifest.best not in complete:
            log.warning("the best weights of %s%s/ are gone; trying the checkpoint before", root, name)
        else:
            yield checkpoint


def read_checkpoint(store: Store, root: str, name: str) -> Checkpoint | None:
    """Reads the manifest of a checkpoint; None if the manifest is missing, damaged or malformed.

    Args:
        store: the output store.
        root: folder of the checkpoints of the run, with a slash at the end.
        name: name of the folder of the checkpoint.

    Raises:
        StageFailure: a failure of the store.
    """
    try:
        data = store.read(f"{root}{name}/{MANIFEST}")
    except StageFailure as failure:
        if failure.reason in DAMAGED:
            return None
        raise
    try:
        manifest = CheckpointManifest.model_validate_json(data)
    except ValidationError:
        return None
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return Checkpoint(name, manifest, CheckpointRef(step=manifest.step, digest=digest))
