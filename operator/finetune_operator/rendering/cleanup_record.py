"""The cleanup record of a run: a ControllerRevision with the data that the cleanup needs. Pure.

The record exists before the first Job of the run, has no owner, and outlives the FineTuneJob. Only the
operator creates pods from the record: a queueing system, a backup or a person cannot. Its data is immutable.
"""

from dataclasses import dataclass
from typing import Any

from finetune_operator import names
from finetune_operator.api import FineTuneJob
from finetune_operator.objects import Manifest
from finetune_operator.rendering.metadata import child_name, labels
from finetune_operator.rendering.trainer_config import ResolvedRun, storage_of
from finetune_trainer import config as trainer
from finetune_trainer.contract import Digest, Stage


@dataclass(frozen=True)
class CleanupRecord:
    """The contents of a cleanup record."""

    job: FineTuneJob
    """The FineTuneJob with the fields that rendering needs: name, namespace, uid, generation and spec."""
    run: trainer.Run
    spec_digest: Digest
    namespace_uid: str
    """Uid of the namespace of the run. Cleanup ignores a record that was restored into another cluster."""
    number: int

    @property
    def name(self) -> str:
        """The name of the record and of its cleanup Job."""
        return child_name(self.job, Stage.CLEANUP, self.number)

    @property
    def prefix(self) -> str:
        """The folder in S3 that cleanup deletes."""
        return self.run.runs


def cleanup_record(job: FineTuneJob, resolved: ResolvedRun, number: int, namespace_uid: str) -> Manifest:
    """The record of a run, for one spec of its FineTuneJob."""
    meta = job.metadata
    # An earlier version of the operator, after a rollback, refuses fields that it does not know.
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    # The record names the store of the run itself, so that a changed profile does not redirect the cleanup.
    storage = storage_of(job, "output", resolved.profile)
    if storage:
        spec["output"]["storage"] = storage.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": child_name(job, Stage.CLEANUP, number),
            "namespace": meta["namespace"],
            "labels": labels(job) | {names.LABEL_ROLE: names.ROLE_CLEANUP, names.LABEL_ATTEMPT: str(number)},
            "annotations": {
                names.ANNOTATION_JOB_NAME: meta["name"],
                names.ANNOTATION_SPEC_DIGEST: resolved.spec_digest,
            },
        },
        "revision": number,
        "data": {
            "job": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "metadata": {key: meta[key] for key in ("name", "namespace", "uid", "generation")},
                "spec": spec,
            },
            "run": resolved.run.model_dump(mode="json", by_alias=True, exclude_defaults=True),
            "namespaceUid": namespace_uid,
        },
    }


def read_record(manifest: Manifest) -> CleanupRecord:
    """Reads a cleanup record.

    Raises:
        ValueError: the data cannot be read, or names another namespace or run than the metadata.
    """
    meta = manifest["metadata"]
    where = f"ControllerRevision {meta['namespace']}/{meta['name']}"
    try:
        data: dict[str, Any] = manifest["data"]
        record = CleanupRecord(
            job=FineTuneJob.model_validate(data["job"]),
            run=trainer.Run.model_validate(data["run"]),
            spec_digest=meta["annotations"][names.ANNOTATION_SPEC_DIGEST],
            namespace_uid=str(data["namespaceUid"]),
            number=int(meta["labels"][names.LABEL_ATTEMPT]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from None
    job = record.job.metadata
    named = job["namespace"], record.name, job["uid"], f"/{job['namespace']}/{job['uid']}/"
    own = (
        meta["namespace"],
        meta["name"],
        meta["labels"].get(names.LABEL_UID),
        record.run.runs[-len(named[3]) :],
    )
    if named != own:
        raise ValueError(f"{where} is not the record of the run that it names: {' '.join(named)}")
    return record
