"""Renders the metadata of the objects of a run: names, labels and owner references. Pure."""

from finetune_operator import names
from finetune_operator.api import FineTuneJob
from finetune_operator.objects import Manifest
from finetune_operator.rendering.stage_pods import STAGE_PODS
from finetune_operator.rendering.trainer_config import uid_of
from finetune_trainer.contract import Stage


def labels(job: FineTuneJob) -> dict[str, str]:
    """The labels of every object of a run."""
    return {
        names.LABEL_JOB: names.label_value(job.metadata["name"]),
        names.LABEL_UID: uid_of(job),
    }


def child_name(job: FineTuneJob, stage: Stage, number: int) -> str:
    """The name of the Job of a stage with a number."""
    return names.child_name(job.metadata["name"], uid_of(job), STAGE_PODS[stage].letter, number)


def run_metadata(job: FineTuneJob) -> Manifest:
    """The metadata of the Service and of the NetworkPolicy of a run."""
    return {
        "name": names.run_name(job.metadata["name"], uid_of(job)),
        "namespace": job.metadata["namespace"],
        "labels": labels(job) | {names.LABEL_ROLE: names.ROLE_RUN},
        "annotations": {names.ANNOTATION_JOB_NAME: job.metadata["name"]},
        "ownerReferences": [owner(job)],
    }


def owner(job: FineTuneJob) -> Manifest:
    """The owner reference by which Kubernetes deletes an object with its FineTuneJob."""
    # blockOwnerDeletion needs a permission on finalizers that the operator does not have.
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job.metadata["name"],
        "uid": uid_of(job),
        "controller": True,
        "blockOwnerDeletion": False,
    }
