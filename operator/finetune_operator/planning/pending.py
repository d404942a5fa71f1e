"""Finds why the pods of a Job do not run yet, and what the user can do about it. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from finetune_operator import names
from finetune_operator.names import Reason
from finetune_operator.objects import (
    Manifest,
    condition_true,
    distance,
    has_ended,
    has_started,
    index_of,
    label,
    moment,
    pods_of,
    trainer_state,
)
from finetune_operator.planning.termination_messages import clean
from finetune_operator.planning.wording import join_words

QUIET_SECONDS = 5
"""Seconds after which the operator reads the Events of a Job or pod that has not started."""
IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
}
JOB_PROBLEMS = ("FailedCreate",)
POD_PROBLEMS = ("FailedMount", "FailedCreatePodSandBox", "FailedAttachVolume")
"""Reasons of the Events that say why a Job gets no pods, and why a pod does not start."""
TEXT_LIMIT = 400


@dataclass(frozen=True)
class Waiting:
    """Why not all pods run. `problem`: a person or another system has to act."""

    reason: Reason
    message: str
    problem: bool


def find_reason(job: Manifest, pods: list[Manifest], events: Iterable[Manifest]) -> Waiting | None:
    """Why a Job waits; None where all its pods have started and the Job is not suspended."""
    suspended = _check_suspension(job, pods)
    if suspended or have_all_started(job, pods):
        return suspended
    wanted = job["spec"].get("completions", 1)
    events_read = list(events)
    if drift := find_drift(job):
        return Waiting(Reason.DRIFTED, drift, problem=True)
    if len(pods) < wanted and (refusal := _check_creation(job, events_read)):
        return refusal
    for pod in sorted(pods, key=index_of):
        if not has_started(pod) and (found := _check_pod(job, pod, events_read)):
            return found
    if wanted == 1:
        return Waiting(Reason.WAITING_FOR_PODS, "Waiting for its pod to start.", problem=False)
    started = sum(has_started(pod) for pod in pods)
    return Waiting(Reason.WAITING_FOR_PODS, f"{started} of {wanted} pods have started.", problem=False)


def find_unschedulable(job: Manifest, pods: list[Manifest]) -> Waiting | None:
    """Why the first pod without a node is unschedulable; None where no pod is unschedulable."""
    return next((found for pod in sorted(pods, key=index_of) if (found := _check_node(job, pod))), None)


def have_all_started(job: Manifest, pods: list[Manifest]) -> bool:
    """Whether the trainers of all pods of a Job have started."""
    wanted: int = job["spec"].get("completions", 1)
    return sum(has_started(pod) for pod in pods) >= wanted


def ask_about(jobs: Iterable[Manifest], pods: Iterable[Manifest], now: datetime) -> list[list[str]]:
    """For each Job that waits, the uids to read Events about: the Job first, then its pods by index.

    Only Events report a missing Secret, an exceeded quota or a refusal by Pod Security.
    """
    all_pods = list(pods)
    unexplained: list[list[str]] = []
    for job in jobs:
        if condition_true(job, "Complete", "Failed"):
            continue
        if not _is_old_enough(job, now):
            continue
        own = pods_of(all_pods, job)
        hanging = [job] if _lacks_pods(job, own) else []
        hanging += [p for p in own if _is_creating(p) and _is_old_enough(p, now)]
        if hanging:
            unexplained.append([o["metadata"]["uid"] for o in hanging])
    return unexplained


def explains(events: Iterable[Manifest]) -> bool:
    """Whether the Events of a Job or a pod contain the reason that it waits."""
    return any(event.get("reason") in (*JOB_PROBLEMS, *POD_PROBLEMS) for event in events)


def find_drift(job: Manifest) -> str | None:
    """Describes a change that somebody made to a Job of the run; None where the Job is unchanged.

    The function reads only fields that Kubernetes itself never changes.
    """
    spec, name = job["spec"], job["metadata"]["name"]
    wanted = spec.get("completions", 1)
    if label(job, names.LABEL_ROLE) == names.ROLE_CLEANUP:
        return None
    if spec.get("parallelism", wanted) != wanted:
        return (
            f"Somebody set spec.parallelism of Job {name} to {spec['parallelism']}; it needs {wanted} pods at"
            " once. Set it back, or delete the Job for a new attempt."
        )
    for field in ("activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if spec.get(field) is not None:
            return (
                f"Somebody set spec.{field} of Job {name}; Kubernetes may now remove it at any time. Delete"
                " it for a new attempt, or leave it."
            )
    return None


def _check_suspension(job: Manifest, pods: list[Manifest]) -> Waiting | None:
    """Why a suspended Job waits: its pods stop, or a queue holds it. The operator never suspends a Job."""
    if not job["spec"].get("suspend"):
        return None
    name, queue = job["metadata"]["name"], label(job, names.LABEL_QUEUE)
    if stopping := sum(not has_ended(pod) for pod in pods):
        who = f"Kueue (queue {queue})" if queue else "A queueing system or a person"
        count = "its pod is" if stopping == 1 else f"{stopping} pods are"
        return Waiting(Reason.STOPPING, f"{who} has suspended Job {name}: {count} stopping.", problem=True)
    if queue:
        message = f"Job {name} waits in queue {queue} until Kueue admits the Job."
    else:
        message = (
            f"Job {name} is suspended until a queueing system admits the Job. If no queueing system works in"
            " this namespace, set spec.suspend of the Job to false."
        )
    return Waiting(Reason.QUEUED, message, problem=True)


def _check_pod(job: Manifest, pod: Manifest, events: list[Manifest]) -> Waiting | None:
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    if found := _check_node(job, pod) or _check_init_containers(pod):
        return found
    state = trainer_state(pod).get("waiting", {})
    why, text = state.get("reason", ""), clean(state.get("message", ""), TEXT_LIMIT)
    if why in IMAGE_REASONS:
        image = _image(pod, names.CONTAINER)
        return Waiting(
            Reason.IMAGE_PULL_FAILED,
            f"Image {image} cannot be pulled for pod {name}: {text or why}. Its name and pull secrets are in"
            " the operator's settings.",
            problem=True,
        )
    if not _is_creating(pod):
        return Waiting(Reason.CONTAINER_CREATING, f"Pod {name}: {why}: {text}", problem=True) if why else None
    event = _newest(events, pod, POD_PROBLEMS)
    if event is None:
        return None
    return _check_mount(job, namespace, name, event) or Waiting(
        Reason.VOLUME_FAILED if "Mount" in event["reason"] else Reason.CONTAINER_CREATING,
        f"Pod {name} cannot start: {clean(event.get('message', ''), TEXT_LIMIT)}",
        problem=True,
    )


def _check_node(job: Manifest, pod: Manifest) -> Waiting | None:
    """Why no node takes a pod."""
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            text = clean(condition.get("message", ""), TEXT_LIMIT)
            message = f"No node takes pod {pod['metadata']['name']}{_describe_request(job, pod)}: {text}"
            return Waiting(Reason.UNSCHEDULABLE, message, problem=True)
    return None


def _describe_request(job: Manifest, pod: Manifest) -> str:
    """Describes the requests and the node selector of a pod: `, which requests 4 CPUs and 16Gi memory`.

    The requests come from the template of the Job: in the pod, an injected container may be the first.
    """
    requests = job["spec"]["template"]["spec"]["containers"][0].get("resources", {}).get("requests", {})
    if not requests:
        return ""
    words = {"cpu": "CPU" if requests.get("cpu") == "1" else "CPUs"}
    parts = [f"{amount} {words.get(resource, resource)}" for resource, amount in requests.items()]
    nodes = [f"{key}={value}" for key, value in pod["spec"].get("nodeSelector", {}).items()]
    return f", which requests {join_words(parts)}" + (f" on nodes with {join_words(nodes)}" if nodes else "")


def _check_init_containers(pod: Manifest) -> Waiting | None:
    """Why an injected init container, such as a native sidecar, keeps the trainer from starting."""
    name = pod["metadata"]["name"]
    injected = "The container is not the operator's: an admission webhook injected it."
    for status in pod.get("status", {}).get("initContainerStatuses") or []:
        state, container = status.get("state", {}), status["name"]
        waiting, ended = state.get("waiting", {}), state.get("terminated", {})
        last = ended or status.get("lastState", {}).get("terminated", {})
        why, code = waiting.get("reason", ""), last.get("exitCode")
        text = clean(waiting.get("message") or last.get("message") or why, TEXT_LIMIT)
        if why in IMAGE_REASONS:
            image = f"Image {_image(pod, container)} cannot be pulled for init container {container}"
            return Waiting(
                Reason.IMAGE_PULL_FAILED, f"{image} of pod {name}: {text}. {injected}", problem=True
            )
        if ended.get("exitCode") or why not in ("", "PodInitializing", "ContainerCreating"):
            fails = f"Init container {container} of pod {name} fails"
            exited = f" (last exit code {code})" if code else ""
            return Waiting(
                Reason.INIT_CONTAINER_FAILED,
                f"{fails}{exited}: {text}. The trainer starts after it. {injected}",
                problem=True,
            )
    return None


def _image(pod: Manifest, container: str) -> str:
    spec = pod["spec"]
    containers = [*spec["containers"], *spec.get("initContainers", ())]
    return str(next((c["image"] for c in containers if c["name"] == container), "of container " + container))


def _check_mount(job: Manifest, namespace: str, pod: str, event: Manifest) -> Waiting | None:
    """Finds the missing Secret, ConfigMap or key in a message of the kubelet (Kubernetes 1.30 to 1.36)."""
    text = clean(event.get("message", ""), TEXT_LIMIT)
    volumes = {v["name"]: v for v in job["spec"]["template"]["spec"].get("volumes", ())}
    volume = volumes.get(_search(r'for volume "([^"]+)"', text) or "", {})
    again = "the job goes on by itself"
    if secret := _search(r'secret "([^"]+)" not found', text):
        return Waiting(
            Reason.SECRET_MISSING,
            f"Waiting for Secret {namespace}/{secret}: it does not exist. Create it, {again}.",
            problem=True,
        )
    if config_map := _search(r'configmap "([^"]+)" not found', text):
        return Waiting(
            Reason.CONFIG_MAP_MISSING,
            f"Waiting for ConfigMap {namespace}/{config_map}: it does not exist. Create it, {again}.",
            problem=True,
        )
    if key := _search(r"references non-existent (?:secret|config) key: (\S+)", text):
        where = _objects_with_key(volume, key)
        return Waiting(
            Reason.KEY_MISSING,
            f"Waiting for key {key} in {' or '.join(where) or 'what pod ' + pod + ' mounts'} of namespace"
            f" {namespace}: it is not there. Add it, {again}; or name another key in spec.storage.",
            problem=True,
        )
    return None


def _objects_with_key(volume: Manifest, key: str) -> list[str]:
    """The Secrets and ConfigMaps that a volume reads a key from."""
    if secret := volume.get("secret"):
        return [f"Secret {secret['secretName']}"]
    wanted = {
        f"{kind[0].upper()}{kind[1:]} {named['name']}"
        for source in volume.get("projected", {}).get("sources", ())
        for kind, named in source.items()
        if any(item.get("key") == key for item in named.get("items", ()))
    }
    return sorted(wanted)


def _check_creation(job: Manifest, events: list[Manifest]) -> Waiting | None:
    """Why the Job controller cannot create pods."""
    event = _newest(events, job, JOB_PROBLEMS)
    if event is None:
        return None
    text = clean(event.get("message", "").removeprefix("Error creating: "), TEXT_LIMIT)
    if "exceeded quota" in text:
        way_out = "Ask for less in spec.resources, or wait until others have finished."
        return Waiting(
            Reason.QUOTA_EXCEEDED, f"The namespace's quota is used up: {text}. {way_out}", problem=True
        )
    if "violates PodSecurity" in text:
        return Waiting(Reason.POD_SECURITY, f"Pod Security refuses the pods: {text}", problem=True)
    return Waiting(Reason.PODS_REFUSED, f"The pods cannot be created: {text}", problem=True)


def _newest(events: list[Manifest], about: Manifest, reasons: tuple[str, ...]) -> Manifest | None:
    uid = about["metadata"]["uid"]
    matching = [e for e in events if e["involvedObject"].get("uid") == uid and e.get("reason") in reasons]
    return max(matching, key=_event_time, default=None)


def _event_time(event: Manifest) -> str:
    series = event.get("series") or {}
    seen = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(seen or event["metadata"].get("creationTimestamp", ""))


def _is_creating(pod: Manifest) -> bool:
    """Whether a pod has a node, and its containers do not exist yet."""
    scheduled = condition_true(pod, "PodScheduled") is not None
    return (
        scheduled
        and not has_started(pod)
        and trainer_state(pod).get("waiting", {}).get("reason", "ContainerCreating")
        in ("ContainerCreating", "PodInitializing")
    )


def _lacks_pods(job: Manifest, pods: list[Manifest]) -> bool:
    """Whether the Job controller has started a Job and has not created all its pods.

    Before the start no Event explains missing pods: the Job controller is behind, or a queue holds the Job.
    The watch of Jobs may be ahead of the watch of pods, so the counts in the status of the Job count too.
    """
    status = job.get("status", {})
    count = sum(status.get(phase, 0) for phase in ("active", "succeeded", "failed"))
    return "startTime" in status and max(count, len(pods)) < job["spec"].get("completions", 1)


def _is_old_enough(manifest: Manifest, now: datetime) -> bool:
    made = moment(manifest["metadata"].get("creationTimestamp"))
    return made is None or distance(made, now) >= QUIET_SECONDS


def _search(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None
