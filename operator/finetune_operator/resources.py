"""The Kubernetes objects of a run, as dicts: its Jobs, its Service and its NetworkPolicy. Pure."""

from urllib.parse import urlsplit

from finetune_operator import names, rendering
from finetune_operator.api import FineTuneJob
from finetune_operator.observed import Manifest
from finetune_operator.pods import pod_spec
from finetune_operator.rendering import Asked
from finetune_operator.settings import Settings
from finetune_trainer import config as trainer
from finetune_trainer.contract import PROGRESS_PORT, RENDEZVOUS_PORT, Chosen, Digest, Stage

SWEEP_TRIES = 5
SWEEP_KEPT_SECONDS = 3600
"""How long a finished sweep Job stays to be read."""


def stage_job(
    job: FineTuneJob,
    asked: Asked,
    settings: Settings,
    stage: Stage,
    number: int,
    *,
    chosen: Chosen | None = None,
    prepared: Digest | None = None,
    reported: tuple[Stage, int] | None = None,
) -> Manifest:
    """The Job of one attempt, or of one report (`reported`: the stage and attempt to read back).

    Every stage is an Indexed Job from one template, so that each pod has an index and a host name. A failed
    pod is neither replaced nor are its peers stopped by Kubernetes: they are the evidence. Created once,
    never applied again.
    """
    config = rendering.config(
        job,
        asked.run,
        stage,
        reported[1] if reported else number,
        rendezvous=_rendezvous(job, settings, stage, number),
        hang_seconds=settings.deadlines.hang,
        stop_seconds=settings.deadlines.stop,
        chosen=chosen,
        prepared=prepared,
        reported_stage=reported[0] if reported else None,
    )
    manifest = _job(job, settings, asked, config, number)
    manifest["metadata"]["ownerReferences"] = [_owner(job)]
    manifest["spec"]["backoffLimitPerIndex"] = 0
    return manifest


def sweep_job(job: FineTuneJob, asked: Asked, settings: Settings, number: int) -> Manifest:
    """The Job that removes what a deleted run left in S3.

    Created suspended before anything else of the run, and without an owner, so that it outlives the
    FineTuneJob; see `plan.plan_sweep` for its release.
    """
    config = rendering.config(
        job,
        asked.run,
        Stage.SWEEP,
        number,
        rendezvous=trainer.Rendezvous(),
        hang_seconds=settings.deadlines.hang,
        stop_seconds=settings.deadlines.stop,
    )
    manifest = _job(job, settings, asked, config, number)
    manifest["spec"] |= {
        "suspend": True,
        # Not by index: a failed pod would keep its finalizer until another takes its place, and a namespace
        # that is being deleted takes no more pods, so it would never go.
        "backoffLimit": SWEEP_TRIES,
        "ttlSecondsAfterFinished": SWEEP_KEPT_SECONDS,
    }
    return manifest


def service(job: FineTuneJob) -> Manifest:
    """The headless Service by which the pods of a gang find each other, ready or not."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _run_metadata(job),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_UID: rendering.uid_of(job), names.LABEL_STAGE: Stage.TRAIN.value},
            "ports": [
                {"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP"},
                {"name": "progress", "port": PROGRESS_PORT, "protocol": "TCP"},
            ],
        },
    }


def network_policy(job: FineTuneJob, run: trainer.Run, settings: Settings) -> Manifest:
    """What the pods of a run may talk to: each other, DNS, the stores' ports; and the operator to them.

    Stores are allowed by port and to any address, because S3 may be outside the cluster. A policy sees the
    port behind a Service: a store in the cluster must listen on the port that its endpoint names.
    """
    own_pods = {"podSelector": {"matchLabels": {names.LABEL_UID: rendering.uid_of(job)}}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.operator_namespace}}
    }
    cluster_dns = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    store_ports = sorted({_port(s.endpoint) for s in (run.stores.data, run.stores.model, run.stores.output)})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _run_metadata(job),
        "spec": {
            "podSelector": {"matchLabels": {names.LABEL_UID: rendering.uid_of(job)}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [own_pods]},
                {"from": [operator], "ports": [{"protocol": "TCP", "port": PROGRESS_PORT}]},
            ],
            "egress": [
                {"to": [own_pods]},
                # Port 53 for resolvers anywhere; any port for the cluster's own, which may listen elsewhere
                # behind its Service.
                {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
                {"to": [cluster_dns]},
                {"ports": [{"protocol": "TCP", "port": port} for port in store_ports]},
            ],
        },
    }


def config_of(job_manifest: Manifest) -> trainer.TrainConfig | None:
    """The config that a Job of ours was created with; None where somebody took it away."""
    template = job_manifest["spec"]["template"]["metadata"]
    try:
        return trainer.TrainConfig.model_validate_json(template["annotations"][names.ANNOTATION_CONFIG])
    except (KeyError, ValueError):
        return None


def _job(
    job: FineTuneJob, settings: Settings, asked: Asked, config: trainer.TrainConfig, number: int
) -> Manifest:
    labels = _labels(job) | {
        names.LABEL_STAGE: config.stage.value,
        names.LABEL_ATTEMPT: str(number),
        names.LABEL_ROLE: "sweep" if config.stage is Stage.SWEEP else "run",
    }
    annotations = {
        names.ANNOTATION_CONFIG_DIGEST: config.run.digest(),
        names.ANNOTATION_SPEC_DIGEST: asked.spec_digest,
        names.ANNOTATION_GENERATION: str(job.metadata["generation"]),
        names.ANNOTATION_JOB_NAME: job.metadata["name"],
    }
    rendered = config.model_dump_json(by_alias=True, exclude_none=True)
    pods = config.run.world.nodes if config.stage is Stage.TRAIN else 1
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.child_name(job.metadata["name"], rendering.uid_of(job), config.stage.value, number),
            "namespace": job.metadata["namespace"],
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": annotations | {names.ANNOTATION_CONFIG: rendered},
                },
                "spec": pod_spec(job, config, settings, asked.profile),
            },
        },
    }


def _rendezvous(job: FineTuneJob, settings: Settings, stage: Stage, number: int) -> trainer.Rendezvous:
    deadline = settings.deadlines.rendezvous
    if stage is not Stage.TRAIN:
        return trainer.Rendezvous(startup_deadline_seconds=deadline)
    uid = rendering.uid_of(job)
    master = names.child_name(job.metadata["name"], uid, stage.value, number) + "-0"
    domain = f"{names.run_name(job.metadata['name'], uid)}.{job.metadata['namespace']}.svc"
    return trainer.Rendezvous(
        # The trailing dot keeps resolvers from trying search domains first, which would be cached as missing.
        master_address=f"{master}.{domain}.{settings.cluster_domain}.",
        startup_deadline_seconds=deadline,
    )


def _labels(job: FineTuneJob) -> dict[str, str]:
    return {
        names.LABEL_JOB: names.label_value(job.metadata["name"]),
        names.LABEL_UID: rendering.uid_of(job),
    }


def _run_metadata(job: FineTuneJob) -> Manifest:
    return {
        "name": names.run_name(job.metadata["name"], rendering.uid_of(job)),
        "namespace": job.metadata["namespace"],
        "labels": _labels(job) | {names.LABEL_ROLE: "run"},
        "annotations": {names.ANNOTATION_JOB_NAME: job.metadata["name"]},
        "ownerReferences": [_owner(job)],
    }


def _owner(job: FineTuneJob) -> Manifest:
    # blockOwnerDeletion would ask for a right on finalizers that the operator does not have.
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job.metadata["name"],
        "uid": rendering.uid_of(job),
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _port(endpoint: str) -> int:
    parts = urlsplit(endpoint)
    return parts.port or (443 if parts.scheme == "https" else 80)
