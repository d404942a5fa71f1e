"""The status of a FineTuneJob."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from finetune_operator.names import NotificationEvent, State
from finetune_trainer.contract import (
    MAX_PLACE,
    Account,
    Chosen,
    Evaluation,
    Findings,
    InPlaceRestarts,
    MemoryEstimate,
    Model,
    RowCounts,
)

UNOBSERVED = 0
"""status.observedGeneration of a job for which no operator has written a status.

The API server sets this default. metadata.generation begins with 1, so tools such as kstatus then know that
the job has not ended.
"""


class ConditionStatus(Model):
    """A condition, as the Kubernetes API conventions define conditions."""

    type: Annotated[str, Field(max_length=64)]
    """Type of the condition: Prepared, Running, Evaluated, GatePassed (only with a gate), Published,
    Suspended, Finished, the summary Succeeded, or Ready and Stalled for tools such as kstatus."""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition: True, False or Unknown."""
    reason: Annotated[str, Field(max_length=64)]
    """Reason for the status, one CamelCase word. docs/reasons.md explains each reason and its remedy."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """Explanation of the status for people."""
    observed_generation: NonNegativeInt
    """Generation of the spec that the condition is about."""
    last_transition_time: datetime
    """Time of the last change of the status."""


class SlowRank(Model):
    """The process of a gang that computes more slowly than the others."""

    rank: NonNegativeInt
    """Global rank of the process, from 0."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """Node of the process."""
    ratio: FiniteFloat
    """Duration of a matrix product on this process, divided by the median of all processes; at least 1.5."""


class ProgressStatus(Model):
    """Progress of the current stage, written at most every 30 seconds unless the activity changes."""

    percent: Annotated[int, Field(ge=0, le=100)]
    """Share of the stage that is done, in percent, from 0 to 100."""
    activity: Annotated[str, Field(max_length=64)]
    """Current activity of the trainer, for example Training."""
    step: NonNegativeInt | None = None
    """Number of optimizer steps done."""
    total_steps: NonNegativeInt | None = None
    """Number of optimizer steps of the whole run."""
    checkpoint_step: NonNegativeInt | None = None
    """Optimizer step of the newest complete checkpoint, from which the next attempt would resume."""
    checkpoint_time: datetime | None = None
    """Time at which the newest checkpoint was complete, by the clock of the node."""
    epoch: FiniteFloat | None = None
    """Number of passes over the training rows done; may be a fraction."""
    loss: FiniteFloat | None = None
    """Newest loss on the training rows."""
    validation: FiniteFloat | None = None
    """Newest value of the primary metric on the validation rows."""
    samples_per_second: FiniteFloat | None = None
    """Training speed in rows per second, over all processes."""
    tokens_per_second: FiniteFloat | None = None
    """Training speed in tokens per second, over all processes."""
    slow_rank: SlowRank | None = None
    """Slowest process of Train, if a matrix product takes at least 1.5 times the median of all processes. All
    processes wait for the slowest process in each step. Train compares the processes before its first step
    and with its checkpoints."""
    eta_seconds: NonNegativeInt | None = None
    """Estimated time until the stage is done, in seconds."""
    updated: datetime
    """Time at which the operator asked the trainer."""


class GpuSeconds(Model):
    """Time for which Train pods held GPUs, in seconds x GPUs. The uses add up to the total.

    The process with rank 0 reports its time by use. The operator assumes the same use for all GPUs.
    """

    total: NonNegativeInt = 0
    """Sum over all GPUs. A GPU is held from the time at which its pod has a node until the pod has ended, as
    the operator observed these times."""
    startup: NonNegativeInt = 0
    """From the start of the training process until the first optimizer step: imports, the rows, the model."""
    training: NonNegativeInt = 0
    """Optimizer steps, without lost steps."""
    evaluation: NonNegativeInt = 0
    """Evaluations of the base model, of the validation rows and of the tuned model."""
    checkpoint: NonNegativeInt = 0
    """Pauses of training for checkpoints, and saving the tuned model."""
    lost: NonNegativeInt = 0
    """Optimizer steps after the newest checkpoint of an attempt that did not succeed, which the next attempt
    repeats, and optimizer steps that the attempt repeated after restarts in place."""
    waiting: NonNegativeInt = 0
    """All other time: pods that wait for the other pods of the gang, pull images, upload results, or stop,
    and time of which no pod has reported the use."""


class AttemptStatus(Model):
    """One attempt to run a stage."""

    stage: Literal["Prepare", "Train", "Publish"]
    """Stage that the attempt runs."""
    number: PositiveInt
    """Number of the attempt; each stage counts from 1."""
    generation: NonNegativeInt
    """metadata.generation of the FineTuneJob that this attempt was made for."""
    config_digest: Annotated[str, Field(max_length=71)]
    """SHA-256 of the run settings in the trainer's configuration."""
    spec_digest: Annotated[str, Field(max_length=71)]
    """SHA-256 of the spec without checkpoints, failurePolicy, finishTraining, notifications, suspend and
    ttl, together with the run settings. Results of this attempt count only while the job has the same spec
    digest."""
    job: Annotated[str, Field(max_length=63)]
    """Name of the batch/v1 Job of the attempt."""
    job_uid: Annotated[str, Field(max_length=63)] | None = None
    """Uid of the Job of the attempt."""
    start_time: datetime
    """Time at which the operator created the Job."""
    running_since: datetime | None = None
    """Time at which the operator first saw all pods of the attempt run; the deadline of the stage counts from
    then."""
    active_seconds: NonNegativeInt | None = None
    """Time for which all pods of the attempt ran, in seconds. Of a running attempt: without the time since
    runningSince."""
    gpus: NonNegativeInt | None = None
    """Greatest number of GPUs that the pods of the attempt held at the same time. Absent if the pods held no
    GPUs."""
    gpus_held: NonNegativeInt | None = None
    """Number of GPUs that the pods of the attempt hold since usageTime. Absent if the pods held no GPUs."""
    gpu_seconds: GpuSeconds | None = None
    """GPU time of the attempt until usageTime. Absent if the pods held no GPUs."""
    usage_time: datetime | None = None
    """Time up to which gpuSeconds counts. The operator counts up to the current time with every other change
    of the status. Absent if the pods held no GPUs."""
    failing_since: datetime | None = None
    """Time at which the operator first saw a failed pod; from then on the operator collects the causes."""
    end_time: datetime | None = None
    """Time at which the operator saw the end of the attempt."""
    nodes: PositiveInt | None = None
    """Number of Train pods of the attempt if fewer than resources.nodes."""
    available_nodes: NonNegativeInt | None = None
    """Number of pods of a resized attempt that had a node when the attempt ended. The next attempt has at
    most as many pods."""
    outcome: Literal["Running", "Succeeded", "Failed", "Suspended", "Superseded", "Resized"]
    """State or result of the attempt. Suspended: spec.suspend, a change of spec.finishTraining or a limit of
    spec.failurePolicy stopped the attempt. Superseded: the spec was changed during the attempt. Resized: the
    operator replaced the attempt by an attempt with fewer pods."""
    failure: Annotated[str | None, Field(max_length=64, alias="class")] = None
    """Class of the failure, for example OutOfMemory."""
    reason: Annotated[str, Field(max_length=64)] | None = None
    """Reason for which an unsuccessful attempt ended."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """Cause of the failure and its remedy, for people."""
    place: Annotated[str, Field(max_length=MAX_PLACE)] | None = None
    """Line of the trainer that raised the failure, for example training/loop.py:212, or the activity of a
    process that crashed. A stage that fails twice at the same place and step is not tried again."""
    pod: Annotated[str, Field(max_length=253)] | None = None
    """Pod that failed first."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """Node of the pod that failed first."""
    exit_code: int | None = None
    """Exit code of the pod that failed first."""
    peak_memory_bytes: NonNegativeInt | None = None
    """Greatest host memory of the pod that reported the result or the cause of the failure, in bytes, without
    caches of files."""
    step: NonNegativeInt | None = None
    """Optimizer step that an unsuccessful attempt is known to have reached. A later step than every earlier
    attempt of the stage is progress, and the failures before it no longer count."""
    resumed_from_step: NonNegativeInt | None = None
    """Optimizer step of the checkpoint from which the attempt of Train resumed; after a restart in place, of
    the latest such checkpoint. Absent if the attempt started at the first step, or if no pod reported the
    step."""
    checkpoint_step: NonNegativeInt | None = None
    """Optimizer step of the newest complete checkpoint of the run at the end of an attempt of Train, as far
    as the operator knows. The checkpoint that the pods save while they stop counts, and so do checkpoints of
    earlier attempts. Absent while the attempt runs, and if no checkpoint is known."""
    lost_steps: NonNegativeInt | None = None
    """Number of optimizer steps of an unsuccessful attempt of Train after checkpointStep. If there is a next
    attempt, the next attempt repeats these steps, or fewer if the pods completed a later checkpoint that the
    operator does not know of. Absent if the reached step is unknown."""
    in_place_restarts: InPlaceRestarts | None = None
    """Restarts in place of the attempt of Train: the processes of all pods started again in the same pods.
    Absent if there was none."""
    finish_cause: Annotated[str | None, Field(max_length=1024)] = None
    """Why the attempt of Train makes no steps, and measures the best weights of the checkpoints instead: see
    spec.finishTraining and spec.failurePolicy.onTrainFailure. Absent if the attempt makes steps."""
    diverged_step: PositiveInt | None = None
    """Optimizer step whose loss or gradient was not finite, which ended the attempt of Train. The attempt
    may have reached a later step before a restart in place. Absent if the attempt had another end, or if no
    pod reported the step."""
    skipped_step: PositiveInt | None = None
    """Optimizer step that the attempt of Train skips: divergedStep of an earlier attempt. Absent if the
    attempt skips no step."""
    micro_batch_size: PositiveInt | None = None
    """Rows of a micro-batch of the attempt if the micro-batch is not that of status.chosen: the operator
    halves the micro-batch after out of memory."""
    micro_batch_tokens: PositiveInt | None = None
    """Maximum tokens of a micro-batch of the attempt if the micro-batch is not that of status.chosen: the
    operator halves the micro-batch after out of memory."""


class DroppedAttempts(Model):
    """Attempts that status.attempts no longer lists."""

    total: NonNegativeInt
    """Number of these attempts."""
    by_cause: Annotated[dict[str, NonNegativeInt], Field(max_length=32)] = {}
    """Number of these attempts by class of the failure, or by outcome if there is no class."""
    active_seconds: NonNegativeInt = 0
    """Sum of activeSeconds of these attempts, in seconds."""
    gpu_seconds: GpuSeconds | None = None
    """GPU time of these attempts. Absent if their pods held no GPUs."""


class DataStatus(Model):
    """Results of Prepare about the data."""

    digest: Annotated[str, Field(max_length=71)]
    """SHA-256 of the rows that the job uses."""
    prepared: Annotated[str, Field(max_length=1024)]
    """Folder in S3 that holds the tokenised rows."""
    rows: RowCounts
    """Number of rows by use."""
    account: Account | None = None
    """Number of rows that the data files have, and what became of each row."""
    labels: NonNegativeInt
    """Number of classes; 0 for TextGeneration."""
    tokens: NonNegativeInt
    """Number of tokens in the training rows, for one pass."""
    truncated_tokens: NonNegativeInt
    """Number of tokens of the training rows that maxLength has cut off."""
    findings: Findings
    """Number of findings in the report about the data."""
    report: Annotated[str, Field(max_length=1024)]
    """Report about the data in S3, in JSON."""


class ModelStatus(Model):
    """The base model and the published model of the run."""

    base_digest: Annotated[str, Field(max_length=71)] | None = None
    """SHA-256 of the files of the base model."""
    parameters: NonNegativeInt | None = None
    """Number of parameters of the base model."""
    uri: Annotated[str, Field(max_length=1024)] | None = None
    """Folder in S3 that holds the published model. Set as soon as the model is published and verified."""
    digest: Annotated[str, Field(max_length=71)] | None = None
    """SHA-256 of the manifest.json of the published model."""
    size_bytes: NonNegativeInt | None = None
    """Size of all files of the published model, in bytes."""


class TrainStatus(Model):
    """Results of Train."""

    best_step: NonNegativeInt
    """Optimizer step of the best checkpoint."""
    best_validation: FiniteFloat
    """Value of the primary metric on the validation rows at the best checkpoint."""
    staging: Annotated[str, Field(max_length=1024)]
    """Folder in S3 that holds the tuned model before verification."""
    peak_memory_bytes: NonNegativeInt
    """Greatest memory of one process, in bytes: memory of the GPU, or memory of the host on CPUs."""
    gpu_seconds: NonNegativeInt
    """Time for which the attempt held GPUs, in seconds x GPUs."""


class NotificationStatus(Model):
    """The delivery of one event to one notification target."""

    id: Annotated[str, Field(max_length=120)]
    """Id of the event: the header webhook-id and the attribute id of the CloudEvent. The id is the same in
    each try."""
    target: Annotated[str, Field(max_length=253)]
    """Name of the notification target in the operator's settings."""
    event: NotificationEvent
    """Event that the notification reports."""
    time: datetime
    """Time of the event."""
    state: Literal["Pending", "Delivered", "Failed"]
    """State of the delivery. Pending: the operator tries to deliver the notification. Failed: the operator
    has given up."""
    message: Annotated[str, Field(max_length=256)] | None = None
    """Why the operator has given up."""


class FineTuneJobStatus(Model):
    """Status of the job, as the operator last observed the job."""

    observed_generation: NonNegativeInt | None = None
    """Generation of the spec that the status is about; 0 until the operator has written a status."""
    state: State | None = None
    """State of the job in one word for people, derived from the conditions. Scripts must read the conditions
    instead."""
    stage: Literal["Prepare", "Train", "Publish"] | None = None
    """Current stage of the job."""
    message: Annotated[str, Field(max_length=2048)] | None = None
    """State of the job in a sentence; after a failure, the cause and the remedy."""
    start_time: datetime | None = None
    """Time at which the operator created the first attempt."""
    training_start_time: datetime | None = None
    """Time at which the operator first saw a Train pod that runs or has run. From then on the API server
    refuses changes of the spec, except changes of the fields that may be changed at any time."""
    completion_time: datetime | None = None
    """Time at which the job ended, with success or failure."""
    conditions: Annotated[
        list[ConditionStatus],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    """Conditions of the job. Finished is True after every end; Succeeded says how the job ended."""
    progress: ProgressStatus | None = None
    """Progress of the current stage."""
    attempts: Annotated[list[AttemptStatus], Field(max_length=64)] = []
    """Attempts of all stages, oldest first. Of more than 60 attempts, old ones that no longer matter, such as
    preempted ones, are left out and counted in attemptsDropped."""
    attempts_dropped: DroppedAttempts | None = None
    """Attempts that status.attempts no longer lists: how many, how they ended, and what they used."""
    gpu_seconds: GpuSeconds | None = None
    """GPU time of all attempts. Absent if no pod of the job held a GPU."""
    data: DataStatus | None = None
    """Results of Prepare about the data."""
    chosen: Chosen | None = None
    """Values that Prepare has chosen for Auto, and values that follow from these."""
    memory: MemoryEstimate | None = None
    """Memory that Prepare has estimated; the operator sizes the pods by the estimate. With
    resources.minNodes, the greatest estimate for any number of nodes from minNodes to nodes."""
    training: TrainStatus | None = None
    """Results of Train."""
    evaluation: Evaluation | None = None
    """Metrics of the base model and of the tuned model on the same test rows."""
    model: ModelStatus | None = None
    """The base model and the published model of the run."""
    report: Annotated[str, Field(max_length=1024)] | None = None
    """Report in S3, beside the published model: one HTML page to open in a browser. The report quotes test
    rows."""
    notifications: Annotated[
        list[NotificationStatus] | None,
        Field(
            max_length=64,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["id", "target"],
            },
        ),
    ] = None
    """Deliveries of notifications, oldest first. Of more than 64 deliveries, the oldest ones that are not
    Pending are left out."""
