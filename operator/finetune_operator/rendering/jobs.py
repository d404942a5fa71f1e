"""Renders the Jobs of a run. Pure."""

import copy

from finetune_operator import names
from finetune_operator.api import FineTuneJob
from finetune_operator.api.fields import seconds_of
from finetune_operator.objects import Manifest
from finetune_operator.rendering import quantities, trainer_config
from finetune_operator.rendering.cleanup_record import CleanupRecord
from finetune_operator.rendering.metadata import child_name, labels, owner
from finetune_operator.rendering.pods import UNKNOWN_NEEDS, WHOLE_GANG, Gang, Needs, pod_spec
from finetune_operator.rendering.stage_pods import STAGE_PODS
from finetune_operator.rendering.trainer_config import ResolvedRun
from finetune_operator.settings import Profile, Settings
from finetune_trainer import config as trainer
from finetune_trainer.contract import Chosen, Digest, Stage

CLEANUP_TRIES = 5
CLEANUP_KEPT_SECONDS = 3600
"""Seconds that a finished cleanup Job and its log stay. A failed cleanup is tried again after this time."""


def stage_job(
    job: FineTuneJob,
    resolved: ResolvedRun,
    settings: Settings,
    stage: Stage,
    number: int,
    *,
    chosen: Chosen | None = None,
    prepared: Digest | None = None,
    finish_cause: str | None = None,
    skipped_step: int | None = None,
    readback: tuple[Stage, int] | None = None,
    needs: Needs = UNKNOWN_NEEDS,
    gang: Gang = WHOLE_GANG,
) -> Manifest:
    """The Job of one attempt, or of one readback (`readback`: the stage and attempt to read back).

    The memory and the volumes of a pod are at least `needs`, as far as job and profile permit.

    Every stage is an Indexed Job from one template, so that each pod has an index and a host name. Kubernetes
    neither replaces a failed pod nor stops the other pods, because the operator reads the cause of a failure
    from all pods. The Job is created once and never applied again.
    """
    hang_timeout = job.spec.failure_policy.hang_timeout
    config = trainer_config.config(
        job,
        resolved.run,
        stage,
        readback[1] if readback else number,
        rendezvous=_rendezvous(job, settings, stage, number, gang.extra_rendezvous_seconds),
        hang_seconds=seconds_of(hang_timeout) if hang_timeout else settings.deadlines.hang,
        stop_seconds=settings.deadlines.stop,
        serve_metrics=settings.metrics.pods_are_scraped,
        chosen=chosen,
        prepared=prepared,
        finish=finish_cause is not None,
        skipped_step=skipped_step,
        readback_stage=readback[0] if readback else None,
        memory=_memory_limits(job, resolved.profile) if stage is Stage.PREPARE else None,
        checkpoints=_checkpoints(job) if stage is Stage.TRAIN else None,
        nodes=gang.nodes,
        min_nodes=_min_nodes(job) if stage is Stage.PREPARE else None,
        in_place_restarts=job.spec.failure_policy.in_place_restarts if stage is Stage.TRAIN else None,
    )
    manifest = _job(job, settings, resolved, config, number, needs, gang.avoided_nodes)
    manifest["metadata"]["ownerReferences"] = [owner(job)]
    if finish_cause is not None:
        manifest["metadata"]["annotations"][names.ANNOTATION_FINISH_CAUSE] = finish_cause
    manifest["spec"]["backoffLimitPerIndex"] = 0
    return manifest


def with_progress_key(manifest: Manifest, key: str) -> Manifest:
    """The Job with a key that signs the requests for the progress of its pods.

    The key is not part of the rendered Job, because a key is random and rendering is pure.
    """
    keyed = copy.deepcopy(manifest)
    keyed["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_PROGRESS_KEY] = key
    return keyed


def cleanup_job(record: CleanupRecord, settings: Settings) -> Manifest:
    """The Job that deletes what a deleted run left in S3.

    The operator creates the Job only after the FineTuneJob of the record is gone, so that no Job exists that
    could delete a live run. The Job has no owner, so that its log outlives the record. Kubernetes removes a
    failed Job after `CLEANUP_KEPT_SECONDS`, and the operator then creates the Job again from the record.
    """
    profile = profile_of(record, settings)
    config = trainer_config.config(
        record.job,
        record.run,
        Stage.CLEANUP,
        record.number,
        rendezvous=trainer.Rendezvous(),
        hang_seconds=settings.deadlines.hang,
        stop_seconds=settings.deadlines.stop,
    )
    resolved = ResolvedRun(record.run, profile, record.spec_digest)
    manifest = _job(record.job, settings, resolved, config, record.number)
    manifest["spec"] |= {
        # With backoffLimitPerIndex a failed pod keeps its finalizer until its replacement exists. A namespace
        # that is being deleted accepts no new pods, so the failed pod would block the deletion forever.
        "backoffLimit": CLEANUP_TRIES,
        "activeDeadlineSeconds": settings.deadlines.cleanup,
        "ttlSecondsAfterFinished": CLEANUP_KEPT_SECONDS,
    }
    return manifest


def profile_of(record: CleanupRecord, settings: Settings) -> Profile:
    """The profile that the FineTuneJob named, or the first profile where that profile no longer exists."""
    named = settings.profiles.get(record.job.spec.resources.profile)
    return named or next(iter(settings.profiles.values()))


def config_of(job_manifest: Manifest) -> trainer.TrainConfig | None:
    """The config that a Job was created with; None where the annotation is missing or cannot be read."""
    template = job_manifest["spec"]["template"]["metadata"]
    try:
        return trainer.TrainConfig.model_validate_json(template["annotations"][names.ANNOTATION_CONFIG])
    except (KeyError, ValueError):
        return None


def _job(
    job: FineTuneJob,
    settings: Settings,
    resolved: ResolvedRun,
    config: trainer.TrainConfig,
    number: int,
    needs: Needs = UNKNOWN_NEEDS,
    avoided_nodes: tuple[str, ...] = (),
) -> Manifest:
    job_labels = labels(job) | {
        names.LABEL_STAGE: config.stage.value,
        names.LABEL_ATTEMPT: str(number),
        names.LABEL_ROLE: names.ROLE_CLEANUP if config.stage is Stage.CLEANUP else names.ROLE_RUN,
    }
    annotations = {
        names.ANNOTATION_CONFIG_DIGEST: config.run.digest(),
        names.ANNOTATION_SPEC_DIGEST: resolved.spec_digest,
        names.ANNOTATION_GENERATION: str(job.metadata["generation"]),
        names.ANNOTATION_JOB_NAME: job.metadata["name"],
    }
    rendered = config.model_dump_json(by_alias=True, exclude_none=True)
    pods = config.world.nodes if STAGE_PODS[config.stage].is_gang else 1
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": child_name(job, config.stage, number),
            "namespace": job.metadata["namespace"],
            "labels": job_labels,
            "annotations": annotations,
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {
                    "labels": resolved.profile.pod_labels | job_labels,
                    "annotations": resolved.profile.pod_annotations
                    | annotations
                    | {names.ANNOTATION_CONFIG: rendered},
                },
                "spec": pod_spec(job, config, settings, resolved.profile, needs, avoided_nodes),
            },
        },
    }


def _memory_limits(job: FineTuneJob, profile: Profile) -> trainer.MemoryLimits:
    """The memory in which Prepare fits the settings of a job."""
    pod = job.spec.resources.memory or profile.max_memory
    return trainer.MemoryLimits(
        gpu=int(quantities.parse(profile.gpu_memory)) if profile.gpu_memory else None,
        train=int(quantities.parse(pod)) if pod else None,
    )


def _min_nodes(job: FineTuneJob) -> int | None:
    """The smallest number of Train pods of an attempt; None where every attempt has all pods."""
    resources = job.spec.resources
    least = resources.min_nodes
    return least if least is not None and least < resources.nodes else None


def _checkpoints(job: FineTuneJob) -> trainer.Checkpoints:
    """When Train saves checkpoints, and how many of them stay."""
    spec = job.spec.checkpoints
    every = spec.every_minutes
    return trainer.Checkpoints(every_seconds=every if every == "Auto" else 60 * every, keep=spec.keep)


def _rendezvous(
    job: FineTuneJob, settings: Settings, stage: Stage, number: int, extra_seconds: int
) -> trainer.Rendezvous:
    deadline = settings.deadlines.rendezvous + extra_seconds
    if not STAGE_PODS[stage].is_gang:
        return trainer.Rendezvous(startup_deadline_seconds=deadline)
    uid = trainer_config.uid_of(job)
    master = child_name(job, stage, number) + "-0"
    domain = f"{names.run_name(job.metadata['name'], uid)}.{job.metadata['namespace']}.svc"
    return trainer.Rendezvous(
        # The trailing dot keeps resolvers from trying the search domains, whose failures would be cached.
        master_address=f"{master}.{domain}.{settings.cluster_domain}.",
        startup_deadline_seconds=deadline,
    )
