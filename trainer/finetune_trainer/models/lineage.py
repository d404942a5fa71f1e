"""IO: stores and reads the lineage of a model whose base model another FineTuneJob published."""

import hashlib
from pathlib import Path

from pydantic import ValidationError

from finetune_trainer.config import JobRef, ParentJob, Run
from finetune_trainer.contract import Digest, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.base_model import digest_of_files
from finetune_trainer.s3.digests import digest_of_file
from finetune_trainer.s3.manifest import MANIFEST, Ancestor, Manifest
from finetune_trainer.s3.store import Store


def keep_parent(run: Run, models: Store, output: Store) -> Manifest | None:
    """Copies the manifest of the base model to the folder of the run, because the base model can be deleted.

    Args:
        run: the configuration of the run.
        models: store of the base model.
        output: store of the run.

    Returns:
        The manifest of the base model; None if no FineTuneJob published the base model.

    Raises:
        StageFailure: ModelMissing, ModelChanged, ModelUnusable, and those of the stores.
    """
    parent = run.model.parent
    if parent is None:
        return None
    uri = run.model.uri.rstrip("/") + "/" + MANIFEST
    if models.head(uri) is None:
        raise _config_failure(
            "ModelMissing",
            f"model.fromJob: {uri} is not in the store {run.stores.model.endpoint}, although"
            f" {_describe_job(parent)} published its model there.",
            "If that job publishes to another store, name it in model.storage; if the model was deleted,"
            " start from another one.",
        )
    data = models.read(uri)
    if _digest(data) != parent.manifest:
        raise _model_changed(
            run.model.uri, parent, f"its {MANIFEST} has another SHA-256 than {parent.manifest}"
        )
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError:
        raise _config_failure(
            "ModelUnusable",
            f"model.fromJob: {uri} was written by another release and cannot be read.",
            "Name the folder in model.uri instead; its lineage then begins there.",
        ) from None
    output.write(_manifest_uri(run, parent), data)
    return manifest


def check_files(uri: str, manifest: Manifest, folder: Path, digest: Digest) -> None:
    """Checks that the files of the base model are the files of the manifest.

    Args:
        uri: URI of the base model.
        manifest: manifest of the base model.
        folder: local folder with the downloaded files.
        digest: digest of these files, see `base_model.download`.

    Raises:
        StageFailure: ModelChanged.
    """
    published = {file.path: file.digest for file in manifest.files}
    files = sorted(folder.iterdir())
    if digest_of_files({file.name: published.get(file.name, "") for file in files}) != digest:
        other = [file.name for file in files if digest_of_file(file) != published.get(file.name)]
        raise _model_changed(
            uri, manifest.job, f"{', '.join(other)} is not the file that its {MANIFEST} names"
        )


def lineage_of(run: Run, output: Store, base_model: Digest) -> tuple[Ancestor, ...]:
    """Returns the ancestors of the tuned model, oldest first.

    Args:
        run: the configuration of the run.
        output: store to which Prepare copied the manifest of the base model.
        base_model: digest of the base model.

    Raises:
        StageFailure: Storage, LineageMissing.
    """
    parent = run.model.parent
    base = Ancestor(uri=run.model.uri, digest=base_model, published_by=parent)
    if parent is None:
        return (base,)
    uri = _manifest_uri(run, parent)
    data = output.read(uri) if output.head(uri) else b""
    if _digest(data) != parent.manifest:
        raise StageFailure(
            FailureClass.STORAGE,
            "LineageMissing",
            f"{uri} is not the manifest of the base model that Prepare kept there.",
            "Something deleted or changed it; apply the job again under another name.",
        )
    return (*Manifest.model_validate_json(data).lineage, base)


def _manifest_uri(run: Run, parent: ParentJob) -> str:
    return f"{run.runs}lineage/{parent.manifest.removeprefix('sha256:')}.json"


def _describe_job(publisher: JobRef | ParentJob) -> str:
    return f"FineTuneJob {publisher.namespace}/{publisher.name} (uid {publisher.uid})"


def _digest(data: bytes) -> Digest:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _model_changed(uri: str, publisher: JobRef | ParentJob, how: str) -> StageFailure:
    return _config_failure(
        "ModelChanged",
        f"model.fromJob: {uri} is not what {_describe_job(publisher)} had published when this job began:"
        f" {how}.",
        "Delete this job and apply it again: it then starts from what is published now.",
    )


def _config_failure(reason: str, message: str, hint: str) -> StageFailure:
    return StageFailure(FailureClass.USER_CONFIG, reason, message, hint)
