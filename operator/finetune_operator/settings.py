"""The operator's own settings: one YAML file, written by the Helm chart from `settings` in its values."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, PositiveInt

from finetune_operator.api import Storage
from finetune_operator.api.fields import QUANTITY
from finetune_trainer.contract import Model

Port = Annotated[int, Field(ge=1, le=65535)]
SETTINGS_FILE = Path("/etc/finetune-operator/settings.yaml")
Quantity = Annotated[str, Field(pattern=QUANTITY, max_length=20)]


class Toleration(Model):
    """A toleration as Kubernetes writes it."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class StageResources(Model):
    """CPU and memory of one pod; request and limit are the same where nothing else is said."""

    cpu: Quantity
    memory: Quantity


class Profile(Model):
    """What a site decides for jobs: where they run, with what images and defaults; a job names one."""

    trainer_image: str | None = None
    """Image of the trainer pods; the settings' own if unset."""
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    runtime_class_name: str | None = None
    priority_class_name: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    """Extended resource that a GPU is asked for by."""
    train: StageResources = StageResources(cpu="2", memory="8Gi")
    """Default for each Train pod; a job's resources.cpu and resources.memory override it."""
    cpu_stages: StageResources = StageResources(cpu="1", memory="4Gi")
    """For all other pods. Those of Report and Cleanup ask for 100m of this CPU and may use all of it."""
    shared_memory: Quantity = "1Gi"
    scratch: Quantity = "50Gi"
    """Size limit of the pods' scratch and cache volumes."""
    storage: Storage | None = None
    """The store of jobs that name none; Secret and ConfigMap are of the job's own namespace."""
    max_nodes: PositiveInt = 64
    max_gpus_per_node: Annotated[int, Field(ge=0)] = 16


class Lease(Model):
    """Leader election. With the defaults a standby takes over within 18 s."""

    name: str = "finetune-operator"
    duration_seconds: PositiveInt = 15
    renew_seconds: PositiveInt = 5


class Deadlines(Model):
    """How long a stage's pods may wait or run, in seconds."""

    pods_start: PositiveInt = 3600
    """From a Job's start until all its pods run. Waiting for a GPU counts; time in a queue does not."""
    prepare: PositiveInt = 6 * 3600
    train: PositiveInt = 14 * 24 * 3600
    publish: PositiveInt = 6 * 3600
    cleanup: PositiveInt = 3600
    """From the start of a cleanup Job until it fails and is tried again an hour later. Time in a queue does
    not count."""
    rendezvous: PositiveInt = 300
    """From a Train pod's start until the whole gang has met."""
    stop: PositiveInt = 120
    """What a pod gets between SIGTERM and SIGKILL."""
    hang: PositiveInt = 600
    """How long a rank may show no sign of life."""
    collection: PositiveInt = 60
    """From a gang's first failed pod until its Job is deleted, at most, to collect all causes."""


class Settings(Model):
    """The operator's settings."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; empty: all."""
    operator_namespace: str = "finetune-operator"
    """Where the operator runs; its pods may ask the trainers for progress."""
    cluster_domain: str = "cluster.local"
    """The cluster's DNS domain: pods of a gang find each other by full names."""
    trainer_image: str
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    require_tls: bool = True
    """Refuse jobs whose storage endpoint is plain http."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Attempts of a stage after the first, for faults that a new attempt may mend."""
    resync_seconds: PositiveInt = 300
    metrics_port: Port = 8080
    """Where the operator's own /metrics is."""
    health_port: Port = 8081
    """Where the operator's own /healthz and /readyz are."""
    poll_seconds: PositiveInt = 10
    status_seconds: PositiveInt = 30
    """Progress alone is written to a job's status at most this often."""
    workers: PositiveInt = 16
    """Jobs worked on at the same time."""
    lease: Lease = Lease()
    deadlines: Deadlines = Deadlines()
    profiles: Annotated[dict[str, Profile], Field(min_length=1)] = {"default": Profile()}

    @classmethod
    def read(cls, path: Path = SETTINGS_FILE) -> Self:
        """Reads the settings file.

        Raises:
            OSError: it cannot be read.
            pydantic.ValidationError: a field is unknown or out of bounds.
        """
        document: Any = yaml.safe_load(path.read_text())
        return cls.model_validate(document)
