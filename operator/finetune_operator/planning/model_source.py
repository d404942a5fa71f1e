"""Decides which model a job starts from: a folder, or the published model of another FineTuneJob. Pure."""

from finetune_operator.api import FineTuneJob
from finetune_operator.names import Reason
from finetune_operator.planning.lookup import records_of
from finetune_operator.planning.types import BaseJob, Blocked, Observed
from finetune_trainer import config as trainer


def source_of(job: FineTuneJob, observed: Observed) -> trainer.ModelSource | Blocked:
    """The base model, or why the job has no base model (yet).

    The first cleanup record pins the published model of the base job. After that, neither the deletion of the
    base job nor another job of the same name changes the model.

    Raises:
        ValueError: the trainer's config refuses a value of the spec or of the base job.
    """
    if job.spec.model.from_job is None:
        return trainer.ModelSource(uri=job.spec.model.uri or "")
    name = job.spec.model.from_job.name
    return _pinned_model(job, observed, name) or _published_model(job, observed.base, name)


def _pinned_model(job: FineTuneJob, observed: Observed, name: str) -> trainer.ModelSource | None:
    """The model of the newest cleanup record, if the FineTuneJob that the spec names has published the model.

    A cleanup record exists before the first attempt and after the last.
    """
    for record in reversed(records_of(job, observed)):
        if record.run.model.parent and record.run.model.parent.name == name:
            return record.run.model
    return None


def _published_model(job: FineTuneJob, base: BaseJob | None, name: str) -> trainer.ModelSource | Blocked:
    namespace = job.metadata["namespace"]
    field, which = "spec.model.fromJob.name", f"FineTuneJob {namespace}/{name}"
    if name == job.metadata["name"]:
        return Blocked(
            Reason.SPEC_INVALID,
            f"{field}: {name} is this job itself; name the one whose model to start from.",
        )
    if base is None:
        return Blocked(
            Reason.BASE_JOB_MISSING,
            f"{field}: waiting for {which}, which does not exist. Apply it, the job goes on by itself; or"
            " name another one, or in spec.model.uri the folder of a model.",
            passes=True,
        )
    if base.end == "Failed":
        return Blocked(
            Reason.BASE_JOB_FAILED,
            f"{field}: {which} has ended and published no model; it is {base.state}. Name another one; or get"
            " that one to succeed, then delete this job and apply it again.",
        )
    if base.end is None:
        return Blocked(
            Reason.BASE_JOB_UNFINISHED,
            f"Waiting for {which} to publish its model; it is {base.state}. The job goes on by itself.",
            passes=True,
        )
    parent = trainer.ParentJob(namespace=namespace, name=name, uid=base.uid, manifest=base.manifest or "")
    return trainer.ModelSource(uri=base.uri or "", parent=parent)
