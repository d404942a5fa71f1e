"""IO: the ancestors of a model whose base model another FineTuneJob published."""

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
    """Reads what the base job published, and keeps it with the run: its folder may be deleted any time.

    Returns:
        The manifest in the base model's folder; None where no FineTuneJob published it.

    Raises:
        StageFailure: ModelMissing, ModelChanged, ModelUnusable, and those of the stores.
    """
    parent = run.model.parent
    if parent is None:
        return None
    uri = run.model.uri.rstrip("/") + "/" + MANIFEST
    if models.head(uri) is None:
        raise _refused(
            "ModelMissing",
            f"model.fromJob: {uri} is not in the store {run.stores.model.endpoint}, although {_named(parent)}"
            " published its model there.",
            "If that job publishes to another store, name it in model.storage; if the model was deleted,"
            " start from another one.",
        )
    data = models.read(uri)
    if _digest(data) != parent.manifest:
        raise _changed(run.model.uri, parent, f"its {MANIFEST} has another SHA-256 than {parent.manifest}")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError:
        raise _refused(
            "ModelUnusable",
            f"model.fromJob: {uri} was written by another release and cannot be read.",
            "Name the folder in model.uri instead; its lineage then begins there.",
        ) from None
    output.write(_place(run, parent), data)
    return manifest


def check_files(uri: str, manifest: Manifest, folder: Path, digest: Digest) -> None:
    """Refuses files that are not those of the manifest.

    Args:
        uri: of the base model.
        manifest: of the base job.
        folder: the files that are read, downloaded.
        digest: over these files, as `basemodel.download` gives it.

    Raises:
        StageFailure: ModelChanged.
    """
    published = {file.path: file.digest for file in manifest.files}
    files = sorted(folder.iterdir())
    if digest_of_files({file.name: published.get(file.name, "") for file in files}) != digest:
        other = [file.name for file in files if digest_of_file(file) != published.get(file.name)]
        raise _changed(uri, manifest.job, f"{', '.join(other)} is not the file that its {MANIFEST} names")


def lineage_of(run: Run, output: Store, base_model: Digest) -> tuple[Ancestor, ...]:
    """All models that a run's model descends from, oldest first.

    Args:
        run: what is asked for.
        output: the store that Prepare kept the base job's manifest in.
        base_model: digest over the base model's files.

    Raises:
        StageFailure: Storage, LineageMissing.
    """
    parent = run.model.parent
    base = Ancestor(uri=run.model.uri, digest=base_model, published_by=parent)
    if parent is None:
        return (base,)
    uri = _place(run, parent)
    data = output.read(uri) if output.head(uri) else b""
    if _digest(data) != parent.manifest:
        raise StageFailure(
            FailureClass.STORAGE,
            "LineageMissing",
            f"{uri} is not the manifest of the base model that Prepare kept there.",
            "Something deleted or changed it; apply the job again under another name.",
        )
    return (*Manifest.model_validate_json(data).lineage, base)


def _place(run: Run, parent: ParentJob) -> str:
    return f"{run.runs}lineage/{parent.manifest.removeprefix('sha256:')}.json"


def _named(publisher: JobRef | ParentJob) -> str:
    return f"FineTuneJob {publisher.namespace}/{publisher.name} (uid {publisher.uid})"


def _digest(data: bytes) -> Digest:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _changed(uri: str, publisher: JobRef | ParentJob, how: str) -> StageFailure:
    return _refused(
        "ModelChanged",
        f"model.fromJob: {uri} is not what {_named(publisher)} had published when this job began: {how}.",
        "Delete this job and apply it again: it then starts from what is published now.",
    )


def _refused(reason: str, message: str, hint: str) -> StageFailure:
    return StageFailure(FailureClass.USER_CONFIG, reason, message, hint)
