"""Finds Jobs, pods and conditions in the observed state of a FineTuneJob. Pure."""

from contextlib import suppress

from finetune_operator import names
from finetune_operator.api import AttemptStatus, ConditionStatus, FineTuneJob, FineTuneJobStatus
from finetune_operator.names import Condition
from finetune_operator.objects import Manifest, condition_true, has_ended, index_of, label, live, pods_of
from finetune_operator.planning.stages import STAGES, stage_of
from finetune_operator.planning.types import Observed, PlanInput, Reference
from finetune_operator.rendering.cleanup_record import CleanupRecord, read_record
from finetune_operator.rendering.metadata import child_name
from finetune_operator.rendering.trainer_config import uid_of
from finetune_trainer.contract import Stage


def jobs_of(job: FineTuneJob, observed: Observed, *stages: Stage) -> list[Manifest]:
    """The Jobs of these stages, oldest first.

    A Job belongs to the run only if its name follows from its labels. Other Jobs with labels of the operator
    are ignored.
    """

    def is_ours(manifest: Manifest) -> bool:
        stage, number = label(manifest, names.LABEL_STAGE), label(manifest, names.LABEL_ATTEMPT) or ""
        return (
            stage in stages
            and number.isdecimal()
            and manifest["metadata"]["name"] == child_name(job, Stage(stage), int(number))
        )

    found = [j for j in observed.jobs if is_ours(j)]
    return sorted(found, key=lambda j: (j["metadata"].get("creationTimestamp", ""), j["metadata"]["name"]))


def records_of(job: FineTuneJob, observed: Observed) -> list[CleanupRecord]:
    """The cleanup records of the run that can be read, oldest first."""
    found = []
    for manifest in observed.cleanup_records:
        with suppress(ValueError):
            record = read_record(manifest)
            if uid_of(record.job) == uid_of(job):
                found.append(record)
    return sorted(found, key=lambda record: record.number)


def is_over(inputs: PlanInput, job: Manifest) -> bool:
    """Whether a Job has no pods that may run, and gets no more pods.

    The Job controller creates one pod for each index. A Job whose indexes all had their pod therefore gets no
    more pods, even before the Job controller sets a condition.
    """
    pods = pods_of(inputs.observed.pods, job)
    if live(pods, inputs.now):
        return False
    ended = {index_of(pod) for pod in pods if has_ended(pod)}
    return (
        len(ended) >= job["spec"].get("completions", 1)
        or condition_true(job, "Complete", "Failed") is not None
    )


def readback_name(inputs: PlanInput, attempt: AttemptStatus) -> str:
    """Name of an attempt's readback Job."""
    return child_name(inputs.job, Stage.READBACK, readback_number(attempt))


def readback_number(attempt: AttemptStatus) -> int:
    """The number of an attempt's readback Job; the numbers of all attempts of all stages differ."""
    return len(STAGES) * (attempt.number - 1) + list(STAGES).index(stage_of(attempt)) + 1


def live_run_pods(inputs: PlanInput) -> list[Manifest]:
    """The pods of the run that may still run, of all Jobs except cleanup Jobs."""
    return live(
        [p for p in inputs.observed.pods if label(p, names.LABEL_ROLE) != names.ROLE_CLEANUP], inputs.now
    )


def find_job(observed: Observed, name: str) -> Manifest | None:
    """A Job of the run by name."""
    return next((j for j in observed.jobs if j["metadata"]["name"] == name), None)


def reference(manifest: Manifest) -> Reference:
    """The reference by which an object is deleted."""
    return Reference(manifest["kind"], manifest["metadata"]["name"], manifest["metadata"]["uid"])


def condition(status: FineTuneJobStatus | None, kind: Condition) -> ConditionStatus | None:
    """One condition of a FineTuneJob."""
    return next((c for c in status.conditions if c.type == kind), None) if status else None


def is_condition_true(status: FineTuneJobStatus | None, kind: Condition) -> bool:
    """Whether a condition of a FineTuneJob is True."""
    found = condition(status, kind)
    return found is not None and found.status == "True"
