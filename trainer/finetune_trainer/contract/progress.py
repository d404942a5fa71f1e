"""Progress of a stage, and the files of its ranks."""

from enum import StrEnum
from typing import Annotated

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
)

from finetune_trainer.contract.base import CONTRACT_VERSION, Model, Place, Reason
from finetune_trainer.contract.messages import ResultRef
from finetune_trainer.contract.outcomes import FailureClass, Stage
from finetune_trainer.contract.payloads import Payload

PROGRESS_PORT = 8080


RENDEZVOUS_PORT = 29500


MAX_PROGRESS_BYTES = 64 * 1024


class Activity(StrEnum):
    """What a trainer pod is doing right now."""

    STARTING = "Starting"
    CHECKING_STORE = "CheckingStore"
    CHECKING_MODEL = "CheckingModel"
    CHECKING_DATA = "CheckingData"
    TOKENISING = "Tokenising"
    RENDEZVOUS = "Rendezvous"
    LOADING = "Loading"
    EVALUATING_BASELINE = "EvaluatingBaseline"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    EVALUATING_TUNED = "EvaluatingTuned"
    SAVING = "Saving"
    VERIFYING = "Verifying"
    UPLOADING = "Uploading"
    CLEANING_UP = "CleaningUp"
    DONE = "Done"


class Progress(Model):
    """How far a stage is; served as JSON at /progress."""

    contract_version: str = CONTRACT_VERSION
    stage: Stage
    attempt: PositiveInt
    activity: Activity = Activity.STARTING
    percent: Annotated[float, Field(ge=0, le=100)] = 0
    step: NonNegativeInt | None = None
    total_steps: PositiveInt | None = None
    epoch: Annotated[float, Field(ge=0)] | None = None
    loss: FiniteFloat | None = None
    learning_rate: FiniteFloat | None = None
    gradient_norm: FiniteFloat | None = None
    validation: FiniteFloat | None = None
    """Newest value of the primary metric on the validation rows."""
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    samples_per_second: Annotated[float, Field(ge=0)] | None = None
    eta_seconds: Annotated[float, Field(ge=0)] | None = None
    peak_memory_bytes: NonNegativeInt | None = None
    heartbeat: Annotated[float, Field(ge=0)] = 0
    """Unix time of the last sign of life of the rank that writes this."""


class RankFile(Model):
    """What one rank tells its supervisor, in /tmp/finetune/ranks/<rank>.json."""

    pid: PositiveInt
    heartbeat: float
    """Unix time of the last sign of life."""
    activity: Activity = Activity.STARTING
    quiet_seconds: Annotated[float, Field(gt=0)]
    """How long the rank may stay silent in what it is doing now; after that it hangs."""
    ended: float | None = None
    """Unix time of the cause below; None while the rank works."""
    failure: Annotated[FailureClass | None, Field(alias="class")] = None
    reason: Reason | None = None
    message: str = ""
    hint: str = ""
    place: Place | None = None
    """Where the failure arose; None where the rank left no error."""
    step: NonNegativeInt | None = None
    epoch: FiniteFloat | None = None
    payload: Payload | None = None
    result: ResultRef | None = None
