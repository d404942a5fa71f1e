"""The settings of the operator: a YAML file that the Helm chart writes from `settings` in its values."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, JsonValue, PositiveInt, model_validator

from finetune_operator.api import DEFAULT_REGION, CaBundleRef, Region, SecretRef
from finetune_operator.api.endpoint import METADATA_NETWORKS, Endpoint, why_refused
from finetune_operator.api.fields import QUANTITY, Name
from finetune_operator.names import GROUP, NotificationEvent
from finetune_trainer.contract import Model

Port = Annotated[int, Field(ge=1, le=65535)]
SETTINGS_FILE = Path("/etc/finetune-operator/settings.yaml")
Quantity = Annotated[str, Field(pattern=QUANTITY, max_length=20)]
NamespacePattern = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?|[-a-z0-9]*\*)$", max_length=63)
]
"""Name of a namespace, or a prefix of names followed by `*`."""
EVERY_NAMESPACE = ("*",)


def _may_be_store(endpoint: str) -> str:
    if why := why_refused(endpoint):
        raise ValueError(f"{endpoint}: {why}")
    return endpoint.rstrip("/")


def is_part(network: IPv4Network | IPv6Network, of: IPv4Network | IPv6Network) -> bool:
    """Whether a network is part of another network; False where the versions of IP differ."""
    if isinstance(network, IPv4Network):
        return isinstance(of, IPv4Network) and network.subnet_of(of)
    return isinstance(of, IPv6Network) and network.subnet_of(of)


def _may_be_reached(cidr: str) -> str:
    network = ip_network(cidr)
    if inside := next((m for m in METADATA_NETWORKS if is_part(network, ip_network(m))), None):
        raise ValueError(f"{cidr} lies in {inside}, where metadata services are: name a network of stores")
    return str(network)


Cidr = Annotated[str, AfterValidator(_may_be_reached)]

LEGACY_JOB_LABELS = {"job-name", "controller-uid"}
OURS = (GROUP, "batch.kubernetes.io")
"""Prefixes of the labels and annotations that the operator and the Job controller write."""


def _foreign(name: str) -> str:
    prefix = name.rpartition("/")[0]
    if any(prefix == own or prefix.endswith(f".{own}") for own in OURS) or name in LEGACY_JOB_LABELS:
        raise ValueError(f"{name}: the operator and the Job controller write this one")
    return name


LabelName = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        max_length=317,
    ),
    AfterValidator(_foreign),
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
AnnotationValue = Annotated[str, Field(max_length=4096)]


OWN_VARIABLES = frozenset({"POD_NAME", "POD_UID", "NODE_NAME", "HF_HUB_OFFLINE", "HOME", "OMP_NUM_THREADS"})
"""Environment variables that the operator sets in every pod."""


def _free_variable(name: str) -> str:
    if name in OWN_VARIABLES:
        raise ValueError(f"{name}: the operator sets this variable")
    return name


VariableName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253), AfterValidator(_free_variable)
]
ExtendedResource = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        max_length=317,
    ),
]


class Toleration(Model):
    """A toleration of a Kubernetes pod."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class StageResources(Model):
    """CPU and memory of one pod. Requests equal limits unless a stage has smaller requests."""

    cpu: Quantity
    memory: Quantity


class Egress(Model):
    """The destinations that a NetworkPolicy allows for a store: the pods or hosts behind a Service."""

    cidrs: tuple[Cidr, ...] = ()
    """Networks of the store, for example 10.20.0.0/24."""
    namespaces: tuple[Name, ...] = ()
    """Namespaces of the pods of a store that runs in the cluster."""
    ports: tuple[Port, ...] = ()
    """Ports that the pods or hosts of the store listen on. Default: the port of the endpoint."""


class Store(Model):
    """An S3 store: endpoint, certificate authority and keys are one unit."""

    endpoint: Annotated[Endpoint, AfterValidator(_may_be_store)]
    region: Region = DEFAULT_REGION
    ca_bundle_ref: CaBundleRef | None = None
    """Certificate authority of the store, in a ConfigMap in the namespace of the job."""
    secret_ref: SecretRef | None = None
    """Keys of jobs that name no Secret, in the namespace of the job. Unset: each job must name a Secret."""
    egress: Egress = Egress()
    allowed_namespaces: tuple[NamespacePattern, ...] = EVERY_NAMESPACE
    """Namespaces whose jobs may use the store."""


class Profile(Model):
    """The nodes, images and defaults of jobs. A job names a profile."""

    trainer_image: str | None = None
    """Image of the trainer pods. Unset: `trainerImage` of the settings."""
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    pod_labels: dict[LabelName, LabelValue] = {}
    """Further labels of the pods, for example to keep sidecar injectors out."""
    pod_annotations: dict[LabelName, AnnotationValue] = {}
    """Further annotations of the pods."""
    env: dict[VariableName, Annotated[str, Field(max_length=4096)]] = {}
    """Further environment variables of Train pods, for example of NCCL."""
    extended_resources: dict[ExtendedResource, PositiveInt] = {}
    """Further extended resources of each Train pod that uses GPUs, for example network devices for RDMA."""
    ipc_lock: bool = False
    """Whether Train pods get the capability IPC_LOCK, which RDMA needs to lock memory. The Pod Security
    Standards baseline and restricted forbid this capability."""
    affinity: dict[Literal["nodeAffinity", "podAffinity", "podAntiAffinity"], dict[str, JsonValue]] = {}
    """Affinity of Train pods, as in Kubernetes."""
    runtime_class_name: str | None = None
    priority_class_name: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    """Extended resource of a GPU."""
    gpu_memory: Quantity | None = None
    """Memory of each GPU. With this field, Prepare selects settings that fit, and refuses jobs that cannot
    fit."""
    max_memory: Quantity | None = None
    """The most memory of a pod. The operator gives a pod more memory than the defaults below if the estimate
    is higher. Unset: no limit."""
    train: StageResources = StageResources(cpu="2", memory="8Gi")
    """Default for each Train pod; a job's resources.cpu and resources.memory override it."""
    cpu_stages: StageResources = StageResources(cpu="1", memory="4Gi")
    """For all other pods. Pods of Readback and Cleanup request at most 100m CPU and 512Mi memory."""
    shared_memory: Quantity = "1Gi"
    scratch: Quantity = "50Gi"
    """Size limit of the pods' scratch and cache volumes. Volumes of Train and Publish pods are larger if the
    estimated size of the files is greater."""
    store: Name | None = None
    """Name of the store of jobs that name no store."""
    allowed_namespaces: tuple[NamespacePattern, ...] = EVERY_NAMESPACE
    """Namespaces whose jobs may name the profile."""
    max_nodes: PositiveInt = 64
    max_gpus_per_node: Annotated[int, Field(ge=0)] = 16


LEASE_MARGIN_SECONDS = 2
"""The leader stops this long before its Lease expires."""


class Lease(Model):
    """Leader election. With the defaults a standby takes over within 18 s."""

    name: str = "finetune-operator"
    duration_seconds: PositiveInt = 15
    """Seconds without a renewal after which another replica may become the leader."""
    renew_seconds: PositiveInt = 5
    """Seconds between two renewals."""

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.renew_seconds >= self.duration_seconds - LEASE_MARGIN_SECONDS:
            raise ValueError(
                f"renewSeconds ({self.renew_seconds}) must be less than durationSeconds "
                f"({self.duration_seconds}) minus {LEASE_MARGIN_SECONDS}: the leader stops "
                f"{LEASE_MARGIN_SECONDS} s before its Lease expires"
            )
        return self


class Deadlines(Model):
    """How long the pods of a stage may wait or run, in seconds."""

    pods_start: PositiveInt = 3600
    """From the start of a Job until all its pods run. Waiting for a GPU counts; time in a queue does not."""
    prepare: PositiveInt = 6 * 3600
    train: PositiveInt = 14 * 24 * 3600
    publish: PositiveInt = 6 * 3600
    cleanup: PositiveInt = 3600
    """From the start of a cleanup Job until it fails and is tried again an hour later. Time in a queue does
    not count."""
    rendezvous: PositiveInt = 300
    """From the start of a Train pod until the rendezvous of the gang is complete."""
    stop: PositiveInt = 120
    """The grace period of a pod, between SIGTERM and SIGKILL, in which Train saves a checkpoint."""
    hang: PositiveInt = 600
    """How long a rank may send no heartbeat. spec.failurePolicy.hangTimeout of a job overrides this value."""
    collection: PositiveInt = 60
    """At most this long after the first failed pod of a gang, to collect all causes, its Job is deleted."""


class Dns(Model):
    """The DNS servers that pods may query."""

    ports: tuple[Port, ...] = (53,)
    """Ports that pods may reach at every address, for resolvers outside the cluster and caches on nodes."""
    namespace: Name = "kube-system"
    """Namespace of the DNS pods of the cluster, which pods may reach on every port."""
    pod_labels: dict[str, str] = {"k8s-app": "kube-dns"}
    """Labels of the DNS pods."""


class PodSecurity(Model):
    """The user and group ids of pods. Unset: the platform chooses the ids, as OpenShift does."""

    run_as_user: Annotated[int, Field(ge=1)] | None = 10001
    run_as_group: Annotated[int, Field(ge=1)] | None = 10001
    fs_group: Annotated[int, Field(ge=1)] | None = 10001


class MetricsSettings(Model):
    """Who may scrape the pods of jobs, and limits of the series of FineTuneJobs."""

    per_job: bool = True
    """Whether each FineTuneJob has series of its own."""
    max_jobs: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """The most FineTuneJobs with series of their own; the newest jobs have series."""
    finished_seconds: Annotated[int, Field(ge=0)] = 3600
    """Seconds after the end of a FineTuneJob until its series end."""
    tls: bool = False
    """Whether the operator serves /metrics over TLS; see runtime.serving_certificate for the certificate."""
    authentication: bool = False
    """Whether the API server checks the token and the rights of each request for /metrics of the operator."""
    scrape_namespaces: tuple[Name, ...] = ()
    """Namespaces whose pods may scrape the pods of jobs. Empty: the operator serves their metrics."""

    @model_validator(mode="after")
    def _check_transport(self) -> Self:
        if self.authentication and not self.tls:
            raise ValueError("metrics.authentication needs metrics.tls, because a scraper sends its token")
        return self

    @property
    def pods_are_scraped(self) -> bool:
        """Whether Prometheus reads the metrics of a trainer from its pod, and not from the operator."""
        return bool(self.scrape_namespaces)


EVERY_EVENT = tuple(NotificationEvent)


class NotificationTarget(Model):
    """A receiver of notifications about jobs. Only the settings name URLs: a job names a target."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s/@?#]+(/[^\s#]*)?$")]
    """URL that receives each event as a POST request."""
    secret_name: Name
    """Secret in the namespace of the operator: signingKey, and optionally previousSigningKey and ca.crt. The
    chart mounts the Secret."""
    events: Annotated[tuple[NotificationEvent, ...], Field(min_length=1)] = EVERY_EVENT
    """Events that the target receives at most."""
    all_jobs: bool = False
    """Whether the target receives the events of all jobs of its namespaces, not only of jobs that name it."""
    allowed_namespaces: tuple[NamespacePattern, ...] = EVERY_NAMESPACE
    """Namespaces whose jobs may use the target."""
    timeout_seconds: Annotated[int, Field(ge=1, le=60)] = 10
    """Seconds until a request without an answer counts as failed."""
    give_up_seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] = 3600
    """Seconds after an event from which on a failed request is the last request."""
    egress: Egress = Egress()
    """Destinations that the NetworkPolicy of the operator allows for the target; the chart reads them."""


class NotificationSettings(Model):
    """Who is notified of the events of jobs."""

    targets: Annotated[dict[Name, NotificationTarget], Field(max_length=64)] = {}
    """The notification targets of the site; a job names a target."""


class Settings(Model):
    """The settings of the operator."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to watch. Empty: all namespaces."""
    operator_namespace: str = "finetune-operator"
    """Namespace of the operator, whose pods may poll the trainers for progress."""
    cluster_domain: str = "cluster.local"
    """DNS domain of the cluster: the pods of a gang find each other by fully qualified names."""
    trainer_image: str
    """Image of the trainer pods, if the profile of the job names no other image."""
    slim_trainer_image: str | None = None
    """Image of the pods that only read and delete objects in the store: Readback and cleanup. Unset: the
    image of the trainer pods."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    require_tls: bool = True
    """Whether to refuse plain http: for stores of jobs, and for notification targets."""
    stores: dict[Name, Store] = {}
    """The S3 stores of the site; a job or a profile names a store."""
    allow_other_endpoints: bool | None = None
    """Whether jobs may name other endpoints than `stores`. Unset: only where `stores` is empty."""
    notifications: NotificationSettings = NotificationSettings()
    dns: Dns = Dns()
    pod_security: PodSecurity = PodSecurity()
    limit_ephemeral_storage: bool = False
    """Whether pods request and limit ephemeral storage: both scratch volumes, and logs. A node whose kubelet
    does not count local storage has none, and runs no pod that requests some."""
    max_restarts: Annotated[int, Field(ge=0, le=20)] = 3
    """The most attempts of a stage after the first, for failures that another attempt may not have. The count
    starts again when the stage makes progress: an attempt reaches a later step than all earlier attempts.
    A job overrides this value with spec.failurePolicy.maxRestarts."""
    resync_seconds: PositiveInt = 300
    metrics_port: Port = 8080
    """Port of /metrics of the operator."""
    metrics: MetricsSettings = MetricsSettings()
    health_port: Port = 8081
    """Port of /healthz and /readyz of the operator."""
    poll_seconds: PositiveInt = 10
    status_seconds: PositiveInt = 30
    """Seconds between two writes of progress to the status of a job."""
    workers: PositiveInt = 16
    """Number of jobs that are reconciled at the same time."""
    lease: Lease = Lease()
    deadlines: Deadlines = Deadlines()
    profiles: Annotated[dict[str, Profile], Field(min_length=1)] = {"default": Profile()}

    @property
    def other_endpoints_are_allowed(self) -> bool:
        """Whether jobs may name other endpoints than the endpoints of `stores`."""
        return not self.stores if self.allow_other_endpoints is None else self.allow_other_endpoints

    @model_validator(mode="after")
    def _profiles_name_known_stores(self) -> Self:
        for name, profile in self.profiles.items():
            if profile.store is not None and profile.store not in self.stores:
                known = ", ".join(sorted(self.stores)) or "none"
                raise ValueError(
                    f"profiles.{name}.store: there is no store {profile.store!r} in stores. Name one of"
                    f" these: {known}"
                )
        return self

    @model_validator(mode="after")
    def _targets_use_tls(self) -> Self:
        for name, target in self.notifications.targets.items():
            if self.require_tls and not target.url.startswith("https://"):
                raise ValueError(
                    f"notifications.targets.{name}.url: plain http is refused here. Use https, or set"
                    " requireTls: false"
                )
        return self

    @classmethod
    def read(cls, path: Path = SETTINGS_FILE) -> Self:
        """Reads the settings file.

        Raises:
            OSError: the file cannot be read.
            pydantic.ValidationError: a field is unknown or out of bounds.
        """
        document: Any = yaml.safe_load(path.read_text())
        return cls.model_validate(document)


def allows(patterns: Iterable[str], namespace: str) -> bool:
    """Whether a namespace matches a list of names, or prefixes of names followed by `*`."""
    return any(
        namespace.startswith(pattern[:-1]) if pattern.endswith("*") else namespace == pattern
        for pattern in patterns
    )
