"""Reads Kubernetes objects as the API server returns them: labels, conditions, timestamps, pods. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from finetune_operator import names

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""
STUCK_AFTER = timedelta(seconds=120)
"""The time after its grace period at which a pod counts as lost with its node."""


def pods_of(pods: Iterable[Manifest], job: Manifest) -> list[Manifest]:
    """The pods of a Job, by index, without the pods of a deleted Job of the same name."""
    uid = job["metadata"].get("uid")
    stage, attempt = label(job, names.LABEL_STAGE), label(job, names.LABEL_ATTEMPT)
    own = [
        p
        for p in pods
        if label(p, "batch.kubernetes.io/controller-uid") == uid
        and label(p, names.LABEL_STAGE) == stage
        and label(p, names.LABEL_ATTEMPT) == attempt
    ]
    return sorted(own, key=lambda p: (index_of(p), p["metadata"]["name"]))


def index_of(pod: Manifest) -> int:
    """The completion index of a pod."""
    value = label(pod, "batch.kubernetes.io/job-completion-index") or ""
    return int(value) if value.isdecimal() else 0


def trainer_state(pod: Manifest) -> Manifest:
    """The state of the container of the trainer.

    The function finds the container by its name: admission webhooks inject containers, and the kubelet sorts
    statuses by name.
    """
    statuses: list[Manifest] = pod.get("status", {}).get("containerStatuses") or []
    return next((s.get("state", {}) for s in statuses if s["name"] == names.CONTAINER), {})


def terminated(pod: Manifest) -> Manifest | None:
    """How the container of the trainer ended; None while the container has not ended."""
    found: Manifest | None = trainer_state(pod).get("terminated")
    return found


def has_started(pod: Manifest) -> bool:
    """Whether the trainer of a pod has started."""
    state = trainer_state(pod)
    return has_ended(pod) or "running" in state or "terminated" in state


def trainer_ended(pod: Manifest) -> bool:
    """Whether the trainer of a pod has ended. Other containers may keep the pod alive."""
    return has_ended(pod) or terminated(pod) is not None


def kept_alive_by(pod: Manifest) -> list[str]:
    """The names of the containers that keep a pod alive after its trainer has ended.

    Native sidecars (init containers with restartPolicy Always) do not count, because the kubelet ends them.
    """
    if has_ended(pod) or terminated(pod) is None:
        return []
    statuses: list[Manifest] = pod["status"]["containerStatuses"]
    return [
        s["name"] for s in statuses if s["name"] != names.CONTAINER and "terminated" not in s.get("state", {})
    ]


def has_other_containers(pod: Manifest) -> bool:
    """Whether containers or native sidecars beside the trainer have been injected into a pod."""
    status = pod.get("status", {})
    sidecars = [s for s in status.get("initContainerStatuses") or [] if "running" in s.get("state", {})]
    return len(status.get("containerStatuses") or []) > 1 or bool(sidecars)


def live(pods: Iterable[Manifest], now: datetime) -> list[Manifest]:
    """The pods that run or may run, without the pods whose node no longer answers."""
    return [p for p in pods if not has_ended(p) and not is_stuck(p, now)]


def has_ended(pod: Manifest) -> bool:
    """Whether all containers of a pod have ended."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_stuck(pod: Manifest, now: datetime) -> bool:
    """Whether a deleted pod still exists long after its grace period, because its node no longer answers."""
    leaves = moment(pod["metadata"].get("deletionTimestamp"))
    return leaves is not None and not has_ended(pod) and now > leaves + STUCK_AFTER


def label(manifest: Manifest, key: str) -> str | None:
    """One label of an object."""
    value: str | None = manifest["metadata"].get("labels", {}).get(key)
    return value


def condition_true(manifest: Manifest, *types: str) -> Manifest | None:
    """The first condition of a Kubernetes object with status True and one of these types."""
    conditions: list[Manifest] = manifest.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] in types and c["status"] == "True"), None)


def transition_time(manifest: Manifest, *types: str) -> datetime | None:
    """When the first condition with status True and one of these types became True; None: no such condition.

    The Job controller writes the times of the conditions of Jobs.
    """
    conditions: list[Manifest] = manifest.get("status", {}).get("conditions") or []
    true = [c for c in conditions if c["type"] in types and c["status"] == "True"]
    return min((t for c in true if (t := moment(c.get("lastTransitionTime")))), default=None)


def moment(timestamp: Any) -> datetime | None:
    """Parses a Kubernetes timestamp; None where the timestamp is missing or cannot be read."""
    try:
        return datetime.fromisoformat(timestamp) if timestamp else None
    except (TypeError, ValueError):
        return None


def distance(then: datetime, now: datetime) -> float:
    """Seconds between two times, in either order.

    Use this function for waits that must end: a clock that was set back by a day does not stall a job for a
    day.
    """
    return abs((now - then).total_seconds())


def since(then: datetime, now: datetime) -> float:
    """Seconds since a time; 0 where the clock was set back. Use it for deadlines that must not pass early."""
    return max(0.0, (now - then).total_seconds())


def is_subset(wanted: Any, existing: Any) -> bool:
    """Whether an object contains all wanted fields. Fields that the API server or others added do not count.

    Lists must have the same length and are compared item by item: an added rule or port is a difference.
    """
    if isinstance(wanted, dict):
        return isinstance(existing, dict) and all(
            is_subset(value, existing.get(key)) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(existing, list)
            and len(wanted) == len(existing)
            and all(
                is_subset(wanted_item, existing_item)
                for wanted_item, existing_item in zip(wanted, existing, strict=True)
            )
        )
    return bool(wanted == existing)
