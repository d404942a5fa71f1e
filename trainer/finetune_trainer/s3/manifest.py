"""The manifest of a folder in S3: all files with their digests, written last.

A folder without a manifest counts as absent.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, ValidationError

from finetune_trainer.config import JobRef, ParentJob
from finetune_trainer.contract import CONTRACT_VERSION, Digest, FailureClass, Model, Uri
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.digests import OnBytes, digest_of_file, ignore_bytes
from finetune_trainer.s3.store import Store

MANIFEST = "manifest.json"


class ManifestFile(Model):
    """One file of a folder. No part of the path begins with a dot, so the path stays below the folder."""

    path: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$", max_length=256)
    ]
    size: NonNegativeInt
    """Bytes."""
    digest: Digest


class Ancestor(Model):
    """A model in the lineage of another model."""

    uri: Uri
    """Folder of the model."""
    digest: Digest
    """SHA-256 over the files of the model, like `baseModel`."""
    published_by: ParentJob | None = None
    """The FineTuneJob that published the model; None for a model from elsewhere."""


class Manifest(Model):
    """The files of a folder, the FineTuneJob of the folder, and the inputs of the model."""

    contract_version: str = CONTRACT_VERSION
    job: JobRef
    created: str
    """End of training: UTC, ISO 8601."""
    base_model: Digest
    data: Digest
    config: Digest
    lineage: tuple[Ancestor, ...] = ()
    """All models that this model descends from, oldest first; the last entry is the base model."""
    files: tuple[ManifestFile, ...]

    @property
    def size(self) -> int:
        """Total size of all files in bytes."""
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """Encodes the manifest as canonical JSON, whose SHA-256 identifies the content of the folder."""
        return self.model_dump_json(by_alias=True, indent=1).encode() + b"\n"

    @classmethod
    def of(
        cls,
        folder: Path,
        *,
        job: JobRef,
        created: str,
        base_model: Digest,
        data: Digest,
        config: Digest,
        lineage: tuple[Ancestor, ...],
        known: Mapping[str, Digest] | None = None,
        on_bytes: OnBytes = ignore_bytes,
    ) -> Self:
        """Creates the manifest of a local folder.

        Args:
            folder: the local folder.
            job: the FineTuneJob of the folder.
            created: end of training.
            base_model: digest of the base model.
            data: digest of the prepared data.
            config: digest of the configuration.
            lineage: the ancestors of the model.
            known: digests of files that were computed before, by path.
            on_bytes: receives the number of bytes of each read.
        """
        known = known or {}
        files = tuple(
            ManifestFile(
                path=path.relative_to(folder).as_posix(),
                size=path.stat().st_size,
                digest=known.get(path.relative_to(folder).as_posix()) or digest_of_file(path, on_bytes),
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path != folder / MANIFEST
        )
        return cls(
            job=job,
            created=created,
            base_model=base_model,
            data=data,
            config=config,
            lineage=lineage,
            files=files,
        )


def upload_folder(
    store: Store, folder: Path, uri: str, manifest: Manifest, on_bytes: OnBytes = ignore_bytes
) -> Digest:
    """Uploads all files of a manifest, then the manifest. Returns the digest of the manifest's bytes.

    Args:
        store: the store that receives the folder.
        folder: the local folder.
        uri: URI of the folder in the store, with a slash at the end.
        manifest: manifest of the folder.
        on_bytes: receives the number of bytes during the transfer.

    Raises:
        StageFailure: Internal if a file is not what the manifest says; a failure of the store.
    """
    for file in manifest.files:
        sent = store.upload(folder / file.path, uri + file.path, on_bytes)
        if sent.digest != file.digest:
            raise StageFailure(
                FailureClass.INTERNAL, "FileChanged", f"{file.path} changed while it was uploaded to {uri}"
            )
    return store.write(uri + MANIFEST, manifest.encode()).digest


def download_folder(store: Store, uri: str, folder: Path, on_bytes: OnBytes = ignore_bytes) -> Manifest:
    """Downloads a complete folder and checks every file against its manifest.

    Args:
        store: the store that has the folder.
        uri: URI of the folder in the store, with a slash at the end.
        folder: the local folder.
        on_bytes: receives the number of bytes during the transfer.

    Raises:
        StageFailure: Storage, FolderIncomplete or ObjectCorrupt.
    """
    manifest = read_manifest(store, uri)
    if manifest is None:
        raise StageFailure(
            FailureClass.STORAGE, "FolderIncomplete", f"{uri} has no readable {MANIFEST}: it is not complete"
        )
    for file in manifest.files:
        store.download(uri + file.path, folder / file.path, expected=file.digest, on_bytes=on_bytes)
    return manifest


def read_manifest(store: Store, uri: str) -> Manifest | None:
    """Reads the manifest of a folder; None if there is no manifest, or a manifest of another program."""
    if store.head(uri + MANIFEST) is None:
        return None
    try:
        return Manifest.model_validate_json(store.read(uri + MANIFEST))
    except ValidationError:
        return None
