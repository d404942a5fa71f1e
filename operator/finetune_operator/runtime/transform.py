"""Reduces each Kubernetes object to the fields that the operator reads, before the cache stores the object.

A tenant may write up to 256 KiB of annotations, hundreds of labels, and whole pod templates. None of these
reaches the cache.
"""

import sys
from collections.abc import Mapping
from typing import Any

from finetune_operator import names
from finetune_operator.names import KIND
from finetune_operator.objects import Manifest

Fields = Mapping[str, Any]
"""Fields to keep: `...` keeps a whole value; a mapping keeps fields of an object or of each list item."""

INTERN_LIMIT = 64
"""Strings up to this length are interned: equal strings of many objects share memory."""


def _fields(*names_of_fields: str) -> Fields:
    return dict.fromkeys(names_of_fields, ...)


_METADATA = _fields(
    "name",
    "namespace",
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
)
_CHILD = {
    **_METADATA,
    "labels": _fields(
        names.LABEL_JOB,
        names.LABEL_UID,
        names.LABEL_STAGE,
        names.LABEL_ATTEMPT,
        names.LABEL_ROLE,
        names.LABEL_QUEUE,
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
    ),
    "annotations": _fields(
        names.ANNOTATION_CONFIG_DIGEST,
        names.ANNOTATION_SPEC_DIGEST,
        names.ANNOTATION_FINISH_CAUSE,
        names.ANNOTATION_GENERATION,
        names.ANNOTATION_JOB_NAME,
    ),
    "ownerReferences": ...,
}
_CONDITIONS = _fields("type", "status", "reason", "message", "lastTransitionTime")
_VOLUMES = {
    "name": ...,
    "secret": _fields("secretName"),
    "projected": {
        "sources": {
            "configMap": {"name": ..., "items": _fields("key")},
            "secret": {"name": ..., "items": _fields("key")},
        }
    },
}
FIELDS: Mapping[str, Fields] = {
    KIND: {"metadata": _METADATA, "spec": ..., "status": ...},
    "Job": {
        "metadata": _CHILD,
        "spec": {
            **_fields(
                "completions", "parallelism", "suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished"
            ),
            "template": {
                "metadata": {"annotations": _fields(names.ANNOTATION_CONFIG)},
                "spec": {"volumes": _VOLUMES, "containers": {"resources": _fields("requests")}},
            },
        },
        "status": {
            **_fields("active", "succeeded", "failed", "failedIndexes", "startTime"),
            "conditions": _CONDITIONS,
        },
    },
    "Pod": {
        "metadata": {
            **_CHILD,
            "annotations": {**_CHILD["annotations"], **_fields(names.ANNOTATION_PROGRESS_KEY)},
        },
        "spec": {
            **_fields("nodeName", "nodeSelector"),
            "containers": _fields("name", "image"),
            "initContainers": _fields("name", "image"),
        },
        "status": {
            **_fields("phase", "reason", "message", "startTime", "podIP"),
            "conditions": _CONDITIONS,
            "containerStatuses": _fields("name", "state"),
            "initContainerStatuses": _fields("name", "state", "lastState"),
        },
    },
    "ControllerRevision": {"apiVersion": ..., "metadata": _CHILD, "data": ...},
    "Service": {"metadata": _CHILD, "spec": ...},
    "NetworkPolicy": {"metadata": _CHILD, "spec": ...},
    "Event": {
        "metadata": _fields("creationTimestamp"),
        "involvedObject": _fields("uid"),
        "series": _fields("lastObservedTime"),
        **_fields("reason", "message", "lastTimestamp", "eventTime"),
    },
}


def transform(kind: str, obj: Manifest) -> Manifest:
    """Keeps the fields that the operator reads, and sets the kind, which the items of a list lack."""
    kept: Manifest = _kept(obj, FIELDS[kind])
    return {"kind": kind, **kept}


def _kept(value: Any, fields: Any) -> Any:
    if fields is ...:
        return _compact(value)
    if isinstance(value, list):
        return [_kept(item, fields) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _kept(value[key], below) for key, below in fields.items() if key in value}


def _compact(value: Any) -> Any:
    if isinstance(value, str):
        return sys.intern(value) if len(value) <= INTERN_LIMIT else value
    if isinstance(value, dict):
        return {sys.intern(key): _compact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_compact(item) for item in value]
    return value
