"""The labels, annotations, conditions, states, reasons and object names."""

from enum import StrEnum
from typing import Final

GROUP: Final = "finetune.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FineTuneJob"
PLURAL: Final = "finetunejobs"
FIELD_MANAGER: Final = "finetune-operator"
CONTAINER: Final = "trainer"
"""Name of the container of the trainer in every pod of a run. All other containers are injected."""

LABEL_JOB: Final = f"{GROUP}/job"
"""Name of the FineTuneJob (cut to 63 characters), on every child. The watches select by this label."""
LABEL_UID: Final = f"{GROUP}/job-uid"
"""Uid of the FineTuneJob, on every child. The operator matches children by this label."""
LABEL_STAGE: Final = f"{GROUP}/stage"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
LABEL_ROLE: Final = f"{GROUP}/role"
"""`cleanup` on the cleanup record and on the Job, pods and NetworkPolicy of a cleanup; else `run`."""
ROLE_CLEANUP: Final = "cleanup"
ROLE_RUN: Final = "run"
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Name of the LocalQueue of Kueue in which a Job waits."""
ANNOTATION_CONFIG: Final = f"{GROUP}/config"
"""The config file of the trainer, on the pod; the downward API mounts the annotation."""
ANNOTATION_PROGRESS_KEY: Final = f"{GROUP}/progress-key"
"""The key that signs requests for the progress of a pod; the downward API mounts the annotation."""
ANNOTATION_CONFIG_DIGEST: Final = f"{GROUP}/config-digest"
ANNOTATION_SPEC_DIGEST: Final = f"{GROUP}/spec-digest"
"""SHA-256 of the spec without `checkpoints`, `notifications`, `suspend` and `ttl`, together with the run
settings that the operator derived from the spec and the profile."""
ANNOTATION_FINISH_CAUSE: Final = f"{GROUP}/finish-cause"
"""On the Job of an attempt of Train that makes no steps: why training is over."""
ANNOTATION_GENERATION: Final = f"{GROUP}/generation"
"""metadata.generation of the FineTuneJob that a Job was made for."""
ANNOTATION_JOB_NAME: Final = f"{GROUP}/job-name"
"""Name of the FineTuneJob in full; the label may be cut."""


class Condition(StrEnum):
    """Condition types of a FineTuneJob."""

    PREPARED = "Prepared"
    RUNNING = "Running"
    EVALUATED = "Evaluated"
    GATE_PASSED = "GatePassed"
    """Only on a job with a gate; Unknown until the tuned model is measured."""
    PUBLISHED = "Published"
    SUSPENDED = "Suspended"
    FINISHED = "Finished"
    """True in every final state, for `kubectl wait`."""
    SUCCEEDED = "Succeeded"
    """The summary: Unknown while undecided."""
    READY = "Ready"
    """The status of Succeeded, under the name that other tools read; see docs/gitops.md."""
    STALLED = "Stalled"
    """True if Succeeded is False: tells kstatus that a job that is not Ready has failed."""


class State(StrEnum):
    """The values of the State column."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    TRAINING = "Training"
    PUBLISHING = "Publishing"
    WAITING = "Waiting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    GATE_FAILED = "GateFailed"
    """Nothing failed: the tuned model does not meet the gate, so it is not published."""


class NotificationEvent(StrEnum):
    """The events of a FineTuneJob that notifications report."""

    STARTED = "Started"
    """The operator has created the first attempt."""
    ATTEMPT_FAILED = "AttemptFailed"
    """An attempt failed; another attempt may follow."""
    GATE_PASSED = "GatePassed"
    """The tuned model meets the gate."""
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    GATE_FAILED = "GateFailed"
    """The job has ended because the tuned model does not meet the gate."""


class Reason(StrEnum):
    """Reasons that the operator sets. Reasons of the trainer are passed on unchanged."""

    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    NOT_STARTED = "NotStarted"
    SUSPENDED_BY_USER = "SuspendedByUser"
    FINISHED_BY_USER = "FinishedByUser"
    """spec.finishTraining ended an attempt of Train."""
    NOT_SUSPENDED = "NotSuspended"
    STOPPING = "Stopping"
    """The pods of an attempt are stopping; the next attempt, or the queue, comes after that."""
    RETRYING = "Retrying"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    UNSCHEDULABLE = "Unschedulable"
    CAPACITY_LOST = "CapacityLost"
    """Too few nodes take the pods of an attempt, and the next attempt has fewer pods."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY = "PodSecurityForbids"
    PODS_REFUSED = "PodsRefused"
    """The Job controller could not create pods; the message is the API server's."""
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason, no secret
    CONFIG_MAP_MISSING = "ConfigMapMissing"
    KEY_MISSING = "KeyMissing"
    VOLUME_FAILED = "VolumeFailed"
    INIT_CONTAINER_FAILED = "InitContainerFailed"
    """An injected init container fails, so the trainer cannot start."""
    CONTAINER_CREATING = "ContainerCreating"
    WAITING_FOR_PODS = "WaitingForPods"
    NAME_CONFLICT = "NameConflict"
    JOB_DELETED = "JobDeleted"
    """Somebody deleted the attempt's Job."""
    DRIFTED = "Drifted"
    """Somebody edited a Job of the run. The operator reports the change and does not revert it."""
    POD_LOST = "PodLost"
    """The pod is gone and left no message."""
    NODE_LOST = "NodeLost"
    EVICTED = "Evicted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    ACTIVE_DEADLINE_EXCEEDED = "ActiveDeadlineExceeded"
    """The pods of the job have run for spec.failurePolicy.activeDeadline."""
    GPU_BUDGET_EXHAUSTED = "GpuBudgetExhausted"
    """The job has used the GPU hours of spec.failurePolicy.maxGpuHours."""
    PREEMPTED = "Preempted"
    """A pod was disrupted (drain, preemption, node shutdown)."""
    SIDECAR_RUNNING = "SidecarRunning"
    """An injected container keeps a pod alive after the trainer has ended."""
    RESTARTED_IN_PLACE = "RestartedInPlace"
    """The ranks of an attempt started again in the same pods; only in Events."""
    TRAINER_DIED = "TrainerDied"
    """The trainer ended without a message and with an exit code that names no failure class."""
    OUT_OF_MEMORY = "OutOfMemoryKilled"
    """The kernel killed a pod that used more than its memory limit."""
    GATE_PASSED = "GatePassed"
    GATE_FAILED = "GateFailed"
    SPEC_CHANGED = "SpecChanged"
    PROFILE_UNKNOWN = "ProfileUnknown"
    PROFILE_FORBIDDEN = "ProfileForbidden"
    """The profile exists, but not for jobs of this namespace."""
    STORAGE_UNSET = "StorageUnset"
    STORAGE_INSECURE = "StorageInsecure"
    STORE_UNKNOWN = "StoreUnknown"
    STORE_FORBIDDEN = "StoreForbidden"
    """The store exists, but not for jobs of this namespace."""
    STORE_CHANGED = "StoreChanged"
    """The settings have given a store another endpoint since training began."""
    ENDPOINT_FORBIDDEN = "EndpointForbidden"
    """The endpoint is not an endpoint of a store of the settings, or cannot be a store."""
    KEYS_FORBIDDEN = "KeysForbidden"
    """The job names the keys of a store for another endpoint."""
    NOTIFICATION_TARGET_UNKNOWN = "NotificationTargetUnknown"
    NOTIFICATION_TARGET_FORBIDDEN = "NotificationTargetForbidden"
    """The notification target exists, but not for jobs of this namespace."""
    SPEC_INVALID = "SpecInvalid"
    BASE_JOB_MISSING = "BaseJobMissing"
    BASE_JOB_UNFINISHED = "BaseJobUnfinished"
    BASE_JOB_FAILED = "BaseJobFailed"
    TRAINER_VERSION_UNSUPPORTED = "TrainerVersionUnsupported"
    RESULT_UNREADABLE = "ResultUnreadable"
    QUEUED = "Queued"
    """A queueing system such as Kueue holds the Job back until there is quota."""
    CLEANED_UP = "CleanedUp"
    """The cleanup has deleted all objects of the run in S3."""
    CLEANUP_FAILED = "CleanupFailed"
    PERMISSION_DENIED = "PermissionDenied"


def child_name(job_name: str, job_uid: str, letter: str, number: int) -> str:
    """`<name cut to 40>-<first 5 characters of the uid>-<letter of the stage><number>`.

    The name leaves room for the pod index and the host name within 63 characters. The uid distinguishes the
    children from the children of a deleted job of the same name.
    """
    return f"{run_name(job_name, job_uid)}-{letter}{number}"


def run_name(job_name: str, job_uid: str) -> str:
    """The common part of the names of a run's objects; also the name of its Service and NetworkPolicy.

    The name begins with a letter, because the name of a Service must.
    """
    plain = job_name.replace(".", "-")
    cut = (plain if plain[0].isalpha() else f"j-{plain}")[:40].rstrip("-")
    return f"{cut}-{job_uid.replace('-', '')[:5]}"


def label_value(name: str) -> str:
    """A name as a label value: at most 63 characters, ending in a letter or digit."""
    return name[:63].rstrip("-._")
