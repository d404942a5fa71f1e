"""What a person reads back: status of a FineTuneJob."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from finetune_operator.names import State
from finetune_trainer.contract import Chosen, Evaluation, Findings, Model, RowCounts


class ConditionStatus(Model):
    """One condition, as the Kubernetes API conventions have it."""

    type: Annotated[str, Field(max_length=64)]
    """Prepared, Running, Evaluated, GatePassed (with a gate), Published, Suspended, Finished, or the summary
    Succeeded."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=64)]
    """Why, as one CamelCase word; docs/reasons.md lists them with the way out."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """Why, for people."""
    observed_generation: NonNegativeInt
    """The spec's generation that this speaks of."""
    last_transition_time: datetime
    """When status last changed."""


class ProgressStatus(Model):
    """How far the stage is, written at most every 30 seconds."""

    percent: Annotated[int, Field(ge=0, le=100)]
    """How much of the stage is done, 0 to 100."""
    activity: Annotated[str, Field(max_length=64)]
    """What is being done now, for example Training."""
    step: NonNegativeInt | None = None
    """Optimizer steps done."""
    total_steps: NonNegativeInt | None = None
    """Optimizer steps of the whole run."""
    epoch: FiniteFloat | None = None
    """Passes over the training rows done."""
    loss: FiniteFloat | None = None
    """Newest training loss."""
    validation: FiniteFloat | None = None
    """Newest primary metric on the validation rows."""
    samples_per_second: FiniteFloat | None = None
    """Rows trained on per second, all processes together."""
    tokens_per_second: FiniteFloat | None = None
    """Tokens trained on per second, all processes together."""
    eta_seconds: NonNegativeInt | None = None
    """Seconds until the stage is done, estimated."""
    updated: datetime
    """When the trainer said so."""


class AttemptStatus(Model):
    """One try at a stage."""

    stage: Literal["Prepare", "Train", "Publish"]
    """The stage tried."""
    number: PositiveInt
    """Counts the tries at this stage from 1."""
    generation: NonNegativeInt
    """The spec's generation that it was made for."""
    config_digest: Annotated[str, Field(max_length=71)]
    """SHA-256 of the run, as the trainer was told of it."""
    spec_digest: Annotated[str, Field(max_length=71)]
    """SHA-256 of the spec without suspend and ttl; results count only while the spec asks for the same."""
    job: Annotated[str, Field(max_length=63)]
    """Name of its batch/v1 Job."""
    job_uid: Annotated[str, Field(max_length=63)] | None = None
    """Uid of that Job."""
    start_time: datetime
    """When the Job was created."""
    running_since: datetime | None = None
    """When all its pods were first seen to run; the stage's deadline counts from then."""
    failing_since: datetime | None = None
    """When one of its pods was first seen to have failed; the causes are collected from then on."""
    end_time: datetime | None = None
    """When its end was seen."""
    outcome: Literal["Running", "Succeeded", "Failed", "Suspended", "Superseded"]
    """How it ended; Superseded: the spec was changed."""
    failure: Annotated[str | None, Field(max_length=64, alias="class")] = None
    """Class of the failure, for example OutOfMemory."""
    reason: Annotated[str, Field(max_length=64)] | None = None
    """Reason of the failure."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """The cause, for people, with the way out."""
    pod: Annotated[str, Field(max_length=253)] | None = None
    """The pod that failed first."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """The node that pod ran on."""
    exit_code: int | None = None
    """Exit code of that pod."""
    step: NonNegativeInt | None = None
    """Optimizer step that an unsuccessful attempt is known to have reached. A later step than every earlier
    attempt of the stage is progress, and the failures before it no longer count."""
    micro_batch_size: PositiveInt | None = None
    """Micro-batch of this attempt, where it differs from status.chosen (halved after out of memory)."""


class DroppedAttempts(Model):
    """The attempts that are no longer in status.attempts."""

    total: NonNegativeInt
    """How many there were."""
    by_cause: Annotated[dict[str, NonNegativeInt], Field(max_length=32)] = {}
    """How many by the class of their failure, or by their outcome where there is no class."""


class DataStatus(Model):
    """What Prepare found in the data."""

    digest: Annotated[str, Field(max_length=71)]
    """SHA-256 over the rows used."""
    prepared: Annotated[str, Field(max_length=1024)]
    """Folder of the tokenised rows."""
    rows: RowCounts
    """Rows by use."""
    labels: NonNegativeInt
    """Number of classes."""
    tokens: NonNegativeInt
    """Tokens of the training rows, once through."""
    truncated_tokens: NonNegativeInt
    """Tokens of the training rows lost to maxLength."""
    findings: Findings
    """How many findings the report lists."""
    report: Annotated[str, Field(max_length=1024)]
    """The data doctor's report in S3."""


class ModelStatus(Model):
    """The models of this run."""

    base_digest: Annotated[str, Field(max_length=71)] | None = None
    """SHA-256 over the base model's files."""
    parameters: NonNegativeInt | None = None
    """Parameters of the base model."""
    uri: Annotated[str, Field(max_length=1024)] | None = None
    """The published model's folder; set once it is published and verified."""
    digest: Annotated[str, Field(max_length=71)] | None = None
    """SHA-256 of its manifest."""
    size_bytes: NonNegativeInt | None = None
    """Size of its files together."""


class TrainStatus(Model):
    """What training reached."""

    best_step: NonNegativeInt
    """Optimizer step of the checkpoint that was kept."""
    best_validation: FiniteFloat
    """Its primary metric on the validation rows."""
    staging: Annotated[str, Field(max_length=1024)]
    """Folder of the tuned model before verification."""
    peak_memory_bytes: NonNegativeInt
    """Most memory that one process held, in bytes: of the GPU, or of the host on CPUs."""
    gpu_seconds: NonNegativeInt
    """Seconds x GPUs held."""


class FineTuneJobStatus(Model):
    """What is, as the operator last saw it."""

    observed_generation: NonNegativeInt | None = None
    """The spec's generation that this status speaks of."""
    state: State | None = None
    """One word for people, derived from the conditions: do not script against it."""
    stage: Literal["Prepare", "Train", "Publish"] | None = None
    """The stage the job is in."""
    message: Annotated[str, Field(max_length=2048)] | None = None
    """One readable sentence on where the job stands."""
    start_time: datetime | None = None
    """When work began."""
    completion_time: datetime | None = None
    """When it ended, either way."""
    conditions: Annotated[
        list[ConditionStatus],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    """Finished is True at every end; then read Succeeded."""
    progress: ProgressStatus | None = None
    """How far the stage is."""
    attempts: Annotated[list[AttemptStatus], Field(max_length=64)] = []
    """Tries at the stages, oldest first. Where there are more than 60, old ones that no longer matter, such
    as preempted ones, are left out and counted in attemptsDropped."""
    attempts_dropped: DroppedAttempts | None = None
    """Attempts that are no longer in attempts."""
    data: DataStatus | None = None
    """What Prepare found in the data."""
    chosen: Chosen | None = None
    """What Prepare chose for `Auto`, and what follows from it."""
    training: TrainStatus | None = None
    """What training reached."""
    evaluation: Evaluation | None = None
    """Base model and tuned model on the same test rows."""
    model: ModelStatus | None = None
    """The models of this run."""
    report: Annotated[str, Field(max_length=1024)] | None = None
    """The report in S3, beside the model: one HTML page to open in a browser. It holds texts of test rows."""
