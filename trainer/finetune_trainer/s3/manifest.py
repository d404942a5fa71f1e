"""The last file of a folder: names every other with its digest. A folder without one does not exist."""

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
    """One file, by its path below the folder; no part of it begins with a dot, so that it stays below."""

    path: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$", max_length=256)
    ]
    size: NonNegativeInt
    """Bytes."""
    digest: Digest


class Ancestor(Model):
    """A model that another descends from."""

    uri: Uri
    """Its folder."""
    digest: Digest
    """SHA-256 over its files, as `baseModel` is."""
    published_by: ParentJob | None = None
    """The FineTuneJob that published it, where one did."""


class Manifest(Model):
    """What a folder holds, whose it is and what it was made from."""

    contract_version: str = CONTRACT_VERSION
    job: JobRef
    created: str
    """UTC, ISO 8601: when training ended."""
    base_model: Digest
    data: Digest
    config: Digest
    lineage: tuple[Ancestor, ...] = ()
    """All models that this one descends from, oldest first; the last is the base model."""
    files: tuple[ManifestFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """Canonical JSON; the digest of these bytes names the folder's whole content."""
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
        on_bytes: OnBytes = ignore_bytes,
    ) -> Self:
        """The manifest of all files below a local folder; `on_bytes` is told of the bytes that are read."""
        files = tuple(
            ManifestFile(
                path=path.relative_to(folder).as_posix(),
                size=path.stat().st_size,
                digest=digest_of_file(path, on_bytes),
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
        store: that gets the folder.
        folder: on the disk.
        uri: of the folder in the store, ends in a slash.
        manifest: of the folder.
        on_bytes: is told of the bytes that move.

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
        store: that has the folder.
        uri: of the folder in the store, ends in a slash.
        folder: on the disk.
        on_bytes: is told of the bytes that move.

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
    """The manifest of a folder; None if there is none or it is not one of ours."""
    if store.head(uri + MANIFEST) is None:
        return None
    try:
        return Manifest.model_validate_json(store.read(uri + MANIFEST))
    except ValidationError:
        return None
