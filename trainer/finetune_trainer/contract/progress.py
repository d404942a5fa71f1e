"""The progress document of a stage, and the rank files."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
)

from finetune_trainer.contract.base import CONTRACT_VERSION, Model, Place, Reason
from finetune_trainer.contract.messages import CheckpointRef, InPlaceRestarts, ResultRef, SecondsByUse
from finetune_trainer.contract.outcomes import FailureClass, Stage
from finetune_trainer.contract.payloads import Payload

PROGRESS_PORT = 8080
"""Port of /progress, /gang, /metrics and /healthz."""


RENDEZVOUS_PORT = 29500
"""Port of the rendezvous on the pod with index 0."""


ROUND_VARIABLE = "FINETUNE_ROUND"
"""Environment variable with which the supervisor tells its ranks the round: the number of restarts in place
of the attempt so far. Not set in the first round."""


MAX_PROGRESS_BYTES = 64 * 1024
"""Maximum size of the progress document."""


SLOW_RANK_RATIO = 1.5
"""Duration of a matrix product on a rank, divided by the median of the gang, from which the rank is slow."""


class Activity(StrEnum):
    """The current activity of a trainer pod."""

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


USES: Mapping[Activity, str] = {
    Activity.STARTING: "startup",
    Activity.LOADING: "startup",
    Activity.TRAINING: "training",
    Activity.EVALUATING_BASELINE: "evaluation",
    Activity.EVALUATING: "evaluation",
    Activity.EVALUATING_TUNED: "evaluation",
    Activity.SAVING: "checkpoint",
}
"""The field of SecondsByUse for the time of an activity of Train. Other activities have none."""


class Progress(Model):
    """The progress of a stage; served as JSON at /progress. None: not known."""

    contract_version: str = CONTRACT_VERSION
    stage: Stage
    attempt: PositiveInt
    activity: Activity = Activity.STARTING
    percent: Annotated[float, Field(ge=0, le=100)] = 0
    rows: NonNegativeInt | None = None
    """Rows of the data that Prepare has read (CheckingData), tokenised (Tokenising) or stored (Uploading)."""
    tokens: NonNegativeInt | None = None
    """Tokens of the rows that Prepare has tokenised."""
    step: NonNegativeInt | None = None
    total_steps: PositiveInt | None = None
    checkpoint_step: NonNegativeInt | None = None
    """Optimizer step of the newest complete checkpoint of the run."""
    checkpoint_time: Annotated[float, Field(ge=0)] | None = None
    """Unix time at which that checkpoint was complete."""
    checkpoint_pause_seconds: Annotated[float, Field(ge=0)] | None = None
    """Duration for which the newest checkpoint paused training: the wait for the upload before, and the
    copy to host memory."""
    resumed_from_step: NonNegativeInt | None = None
    """Optimizer step of the checkpoint from which the attempt resumed."""
    in_place_restarts: InPlaceRestarts | None = None
    """The restarts in place of the attempt; None if there was none. The supervisor adds this field."""
    epoch: Annotated[float, Field(ge=0)] | None = None
    loss: FiniteFloat | None = None
    learning_rate: FiniteFloat | None = None
    gradient_norm: FiniteFloat | None = None
    validation: FiniteFloat | None = None
    """Latest value of the primary metric on the validation rows."""
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    samples_per_second: Annotated[float, Field(ge=0)] | None = None
    mfu: Annotated[float, Field(ge=0)] | None = None
    """Model FLOPs utilisation: the FLOPs that the model needs for the tokens of a second, divided by the peak
    of all GPUs of the gang; None if the peak is unknown."""
    slowest_rank: NonNegativeInt | None = None
    """Rank whose matrix product took longest in the newest measurement; None: not measured, or one rank."""
    slowest_rank_ratio: Annotated[float, Field(ge=0)] | None = None
    """Duration of the matrix product of that rank, divided by the median of the gang."""
    all_reduce_bytes_per_second: Annotated[float, Field(ge=0)] | None = None
    """Bytes that each rank sends per second in an all-reduce, in the newest measurement."""
    eta_seconds: Annotated[float, Field(ge=0)] | None = None
    peak_memory_bytes: NonNegativeInt | None = None
    seconds: SecondsByUse | None = None
    """Train: time of rank 0 by use."""
    heartbeat: Annotated[float, Field(ge=0)] = 0
    """Unix time of the last heartbeat of rank 0."""


class RankFile(Model):
    """The state of one rank, for its supervisor, in /tmp/finetune/ranks/<rank>.json."""

    pid: PositiveInt
    heartbeat: float
    """Unix time of the last heartbeat."""
    activity: Activity = Activity.STARTING
    quiet_seconds: Annotated[float, Field(gt=0)]
    """Seconds without a heartbeat after which the rank hangs, for the current activity."""
    ended: float | None = None
    """Unix time of the end, whose cause the fields below describe; None while the rank works."""
    failure: Annotated[FailureClass | None, Field(alias="class")] = None
    reason: Reason | None = None
    message: str = ""
    hint: str = ""
    place: Place | None = None
    """Place of the failure, see TerminationMessage; None if the rank recorded no error."""
    step: NonNegativeInt | None = None
    epoch: FiniteFloat | None = None
    checkpoint: CheckpointRef | None = None
    """See TerminationMessage."""
    resumed_from_step: NonNegativeInt | None = None
    """See TerminationMessage."""
    seconds: SecondsByUse | None = None
    """Train: time of this rank by use."""
    payload: Payload | None = None
    result: ResultRef | None = None
