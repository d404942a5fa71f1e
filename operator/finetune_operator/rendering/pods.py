"""Renders the pod template of all stages. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from finetune_operator import names
from finetune_operator.api import FineTuneJob, SecretRef
from finetune_operator.objects import Manifest
from finetune_operator.rendering import quantities, trainer_config
from finetune_operator.rendering.stage_pods import STAGE_PODS
from finetune_operator.rendering.trainer_config import access_of, same_endpoint
from finetune_operator.settings import Profile, Settings, Store
from finetune_trainer import config as trainer
from finetune_trainer.contract import PROGRESS_PORT, Stage

MOUNTED_ANNOTATIONS = {
    "config.json": names.ANNOTATION_CONFIG,
    "progress-key": names.ANNOTATION_PROGRESS_KEY,
}
"""The annotation of a pod whose value is the content of each file in /etc/finetune."""
SMALL_REQUESTS = {"cpu": "100m", "memory": "512Mi"}
"""Requests of pods that only read a result or delete objects."""

EPHEMERAL_STORAGE = "ephemeral-storage"
LOG_BYTES = 2**30
"""Ephemeral storage for the logs of a pod. A kubelet keeps 50 MiB of logs for each container by default."""
EPHEMERAL_STORAGE_REQUEST = "1Gi"
"""The scheduler reserves only a part of the limit: most pods need far less than the size of their volumes."""


@dataclass(frozen=True)
class Needs:
    """The estimated needs of a pod in bytes; None if unknown."""

    memory: int | None = None
    scratch: int | None = None
    """Size of each of the two volumes for files."""


UNKNOWN_NEEDS = Needs()


@dataclass(frozen=True)
class Gang:
    """The pods of one Train attempt, as far as they differ from the pods that the run asks for."""

    nodes: int | None = None
    """Number of pods if fewer than the nodes of the run."""
    extra_rendezvous_seconds: int = 0
    """Seconds for which pods wait for the other pods of the gang after the deadline of the rendezvous."""
    avoided_nodes: tuple[str, ...] = ()
    """Names of the nodes that the scheduler avoids where other nodes have room."""


WHOLE_GANG = Gang()
AVOIDANCE_WEIGHT = 100
"""Weight of the preference for other nodes than the avoided nodes: the greatest that Kubernetes allows."""


def pod_spec(
    job: FineTuneJob,
    config: trainer.TrainConfig,
    settings: Settings,
    profile: Profile,
    needs: Needs = UNKNOWN_NEEDS,
    avoided_nodes: tuple[str, ...] = (),
) -> Manifest:
    """The pod spec of a Job, which meets the Pod Security Standard `restricted`.

    Args:
        job: the FineTuneJob.
        config: the config of the pods.
        settings: the settings of the operator.
        profile: the profile that the job names.
        needs: the estimated needs of the pod.
        avoided_nodes: names of the nodes that the scheduler avoids; see `_affinity`.
    """
    limits = _resources(job, config, profile, needs.memory)
    scratch = _scratch(profile, needs.scratch)
    requests = _requests(config.stage, limits)
    if settings.limit_ephemeral_storage:
        limits = limits | {EPHEMERAL_STORAGE: _ephemeral_storage(scratch)}
        requests = requests | {EPHEMERAL_STORAGE: EPHEMERAL_STORAGE_REQUEST}
    stores = _stores(job, config, settings, profile)
    spec: Manifest = {
        "restartPolicy": "Never",
        "subdomain": names.run_name(job.metadata["name"], trainer_config.uid_of(job)),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.deadlines.stop,
        "securityContext": {
            "runAsNonRoot": True,
            **settings.pod_security.model_dump(by_alias=True, exclude_none=True),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": names.CONTAINER,
                "image": _image(config.stage, settings, profile),
                "imagePullPolicy": settings.image_pull_policy,
                "env": _environment(config, limits["cpu"], profile),
                "ports": [{"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"}],
                "resources": {"requests": requests, "limits": limits},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": _capabilities(config.stage, profile),
                },
                # Only the file: the end of the log may contain rows of the data.
                "terminationMessagePolicy": "File",
                "volumeMounts": _mounts(stores),
            }
        ],
        "volumes": _volumes(job, stores, profile, scratch),
    }
    if config.world.nodes > 1 and STAGE_PODS[config.stage].is_gang:
        spec["topologySpreadConstraints"] = [_one_pod_per_node(job, config.stage)]
    if STAGE_PODS[config.stage].is_gang and (affinity := _affinity(profile, avoided_nodes)):
        spec["affinity"] = affinity
    return spec | _placement(settings, profile)


def credentials_volume(role: trainer.StoreRole) -> str:
    """Name of the volume with a role's keys."""
    return f"storage-{role}"


def _image(stage: Stage, settings: Settings, profile: Profile) -> str:
    if STAGE_PODS[stage].store_only and settings.slim_trainer_image:
        return settings.slim_trainer_image
    return profile.trainer_image or settings.trainer_image


def _resources(
    job: FineTuneJob, config: trainer.TrainConfig, profile: Profile, needed_memory: int | None
) -> dict[str, str]:
    if not STAGE_PODS[config.stage].is_gang:
        stages = profile.cpu_stages
        return {"cpu": stages.cpu, "memory": _memory(stages.memory, needed_memory, profile)}
    own = job.spec.resources
    memory = own.memory or _memory(profile.train.memory, needed_memory, profile)
    limits = {"cpu": own.cpu or profile.train.cpu, "memory": memory}
    if own.gpus_per_node:
        limits[profile.gpu_resource] = str(own.gpus_per_node)
        limits |= {name: str(count) for name, count in profile.extended_resources.items()}
    return limits


def _memory(default: str, needed: int | None, profile: Profile) -> str:
    """The needed memory, at least the default, and at most `maxMemory` of the profile."""
    if needed is None or needed <= quantities.parse(default):
        return default
    size = quantities.mebibytes(needed)
    return min(size, profile.max_memory or size, key=quantities.parse)


def _capabilities(stage: Stage, profile: Profile) -> Manifest:
    dropped: Manifest = {"drop": ["ALL"]}
    return {**dropped, "add": ["IPC_LOCK"]} if profile.ipc_lock and STAGE_PODS[stage].is_gang else dropped


def _requests(stage: Stage, limits: dict[str, str]) -> dict[str, str]:
    """The resources that the scheduler reserves."""
    if STAGE_PODS[stage].store_only:
        return limits | {
            name: min(limits[name], most, key=quantities.parse) for name, most in SMALL_REQUESTS.items()
        }
    return limits


def _scratch(profile: Profile, needed: int | None) -> str:
    """The size limit of a volume for files: that of the profile, or the needed size if this is greater."""
    if needed is None or needed <= quantities.parse(profile.scratch):
        return profile.scratch
    return quantities.mebibytes(needed)


def _ephemeral_storage(scratch: str) -> str:
    """The limit of the ephemeral storage of a pod: two volumes for files, and the logs."""
    return quantities.mebibytes(2 * quantities.parse(scratch) + LOG_BYTES)


def _environment(config: trainer.TrainConfig, cpu: str, profile: Profile) -> list[Manifest]:
    """The values that only Kubernetes knows, and the variables that libraries need."""
    is_gang = STAGE_PODS[config.stage].is_gang
    processes = config.run.world.processes_per_node if is_gang else 1
    known = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid", "NODE_NAME": "spec.nodeName"}
    fixed = {
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",  # noqa: S108 - a volume of the pod
        "OMP_NUM_THREADS": str(max(1, math.floor(quantities.parse(cpu) / processes))),
    }
    fixed |= profile.env if is_gang else {}
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in known.items()),
        *({"name": name, "value": value} for name, value in fixed.items()),
    ]


def _stores(
    job: FineTuneJob, config: trainer.TrainConfig, settings: Settings, profile: Profile
) -> dict[trainer.StoreRole, Store]:
    """The stores whose keys a stage's pods get.

    Pods get keys only together with the endpoint of the keys: the run may have begun before the settings gave
    the store another endpoint.
    """
    roles = STAGE_PODS[config.stage].store_roles
    stores = {role: trainer_config.store_of(job, role, profile, settings) for role in roles}
    return {
        role: store
        for role, store in stores.items()
        if store and same_endpoint(store.endpoint, access_of(config.run, role).endpoint)
    }


def _mounts(stores: Iterable[trainer.StoreRole]) -> list[Manifest]:
    return [
        {"name": "config", "mountPath": "/etc/finetune", "readOnly": True},
        *(
            {
                "name": credentials_volume(role),
                "mountPath": f"/var/run/finetune/storage/{role}",
                "readOnly": True,
            }
            for role in stores
        ),
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod
        {"name": "cache", "mountPath": "/var/cache/finetune"},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a volume of the pod
    ]


def _volumes(
    job: FineTuneJob, stores: dict[trainer.StoreRole, Store], profile: Profile, scratch: str
) -> list[Manifest]:
    shared_memory = job.spec.resources.shared_memory or profile.shared_memory
    # One projected volume, because a read-only volume cannot contain another mount point.
    sources: list[Manifest] = [
        {
            "downwardAPI": {
                "items": [
                    {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}
                    for path, annotation in MOUNTED_ANNOTATIONS.items()
                ]
            }
        }
    ]
    secrets: list[Manifest] = []
    for role, store in stores.items():
        if store.ca_bundle_ref:
            item = {"key": store.ca_bundle_ref.key, "path": f"ca/{role}/ca.crt"}
            sources.append({"configMap": {"name": store.ca_bundle_ref.name, "items": [item]}})
        if store.secret_ref is None:
            continue  # store_access refuses a job without a Secret
        secrets.append(_credentials(role, store.secret_ref))
    return [
        {"name": "config", "projected": {"defaultMode": 0o440, "sources": sources}},
        *secrets,
        {"name": "tmp", "emptyDir": {"sizeLimit": scratch}},
        {"name": "cache", "emptyDir": {"sizeLimit": scratch}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
    ]


def _credentials(role: trainer.StoreRole, ref: SecretRef) -> Manifest:
    """The volume with the keys of a store; the session token is optional.

    The keys and the token are in one volume, because the kubelet updates the files of a volume together: keys
    and a token of different sessions are not valid.
    """
    keys = {"accessKey": ref.access_key_key, "secretKey": ref.secret_key_key}
    needed = [{"key": key, "path": path} for path, key in keys.items()]
    token = {"key": ref.session_token_key, "path": "sessionToken"}
    sources: list[Manifest] = [
        {"secret": {"name": ref.name, "items": needed}},
        {"secret": {"name": ref.name, "items": [token], "optional": True}},
    ]
    return {
        "name": credentials_volume(role),
        "projected": {"defaultMode": 0o440, "sources": sources},
    }


def _one_pod_per_node(job: FineTuneJob, stage: Stage) -> Manifest:
    """Prefers one pod per node. A small cluster may still run a gang on one node."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {
            "matchLabels": {
                names.LABEL_UID: trainer_config.uid_of(job),
                names.LABEL_STAGE: stage.value,
            }
        },
    }


def _affinity(profile: Profile, avoided_nodes: tuple[str, ...]) -> Manifest:
    """The affinity of the profile, with a preference for other nodes than the avoided nodes.

    The preference is not a requirement: in a small cluster, the pods would find no node at all.
    """
    affinity: Manifest = {kind: rules for kind, rules in profile.affinity.items()}  # noqa: C416
    if not avoided_nodes:
        return affinity
    # Kubernetes allows one value for each requirement of matchFields; the requirements of a term are ANDed.
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in avoided_nodes]
    term = {"weight": AVOIDANCE_WEIGHT, "preference": {"matchFields": others}}
    nodes = affinity.get("nodeAffinity", {})
    preferred = [*nodes.get("preferredDuringSchedulingIgnoredDuringExecution", ()), term]
    affinity["nodeAffinity"] = {**nodes, "preferredDuringSchedulingIgnoredDuringExecution": preferred}
    return affinity


def _placement(settings: Settings, profile: Profile) -> Manifest:
    chosen: Manifest = {
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "nodeSelector": dict(profile.node_selector),
        "tolerations": [t.model_dump(by_alias=True, exclude_none=True) for t in profile.tolerations],
        "runtimeClassName": profile.runtime_class_name,
        "priorityClassName": profile.priority_class_name,
    }
    return {key: value for key, value in chosen.items() if value}
