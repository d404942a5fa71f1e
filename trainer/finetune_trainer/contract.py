"""What operator and trainer tell each other: exit codes, termination message, progress, rank files.

Version 1 of the contract in docs/contract.md. No torch here: both sides import this file.
"""

import json
import unicodedata
from enum import IntEnum, StrEnum
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)
from pydantic.alias_generators import to_camel

CONTRACT_VERSION = "1.0"
PROGRESS_PORT = 8080
RENDEZVOUS_PORT = 29500
MAX_MESSAGE_BYTES = 4096
"""The kubelet keeps no more of a termination message."""
MAX_PROGRESS_BYTES = 64 * 1024
_ACTING = frozenset({"Cc", "Cf", "Zl", "Zp", "Co", "Cs"})
"""Unicode categories of characters that terminals act on, or that show nothing: control, format (such as the
marks that turn the direction of writing), line and paragraph separators, private use, surrogates."""


class Model(BaseModel):
    """A frozen document with camelCase keys that refuses what it does not know."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        frozen=True,
        extra="forbid",
    )


class ContractError(ValueError):
    """A document of the other side that cannot be understood; the text says why."""


class Stage(StrEnum):
    """What a trainer pod was started for."""

    PREPARE = "Prepare"
    TRAIN = "Train"
    PUBLISH = "Publish"
    READBACK = "Readback"
    CLEANUP = "Cleanup"


def acts_on_terminals(letter: str) -> bool:
    """Whether a terminal does something else with a character than to show it."""
    return not letter.isprintable() and unicodedata.category(letter) in _ACTING


def printable(text: str, keep: str = "") -> str:
    r"""A text of foreign origin that can be shown in a terminal.

    Args:
        text: any.
        keep: characters that stay as they are, such as line ends.

    Returns:
        The text with every character that terminals act on as its escape, such as `\x1b` or `\u202e`.
    """
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode()
        if letter not in keep and acts_on_terminals(letter)
        else letter
        for letter in text
    )


def _shown(text: str, at_most: int) -> str:
    return printable(text)[:at_most]


Message = Annotated[str, Field(max_length=1024), AfterValidator(partial(_shown, at_most=1024))]
"""A sentence or two for people, escaped for terminals."""
Hint = Annotated[str, Field(max_length=512), AfterValidator(partial(_shown, at_most=512))]
"""What the reader can do, escaped for terminals."""


class FailureClass(StrEnum):
    """Why a pod ended. A name, not a severity."""

    SUCCESS = "Success"
    USER_CONFIG = "UserConfig"
    USER_DATA = "UserData"
    OUT_OF_MEMORY = "OutOfMemory"
    STORAGE = "Storage"
    NUMERICAL = "Numerical"
    COMMUNICATION = "Communication"
    PREEMPTED = "Preempted"
    HANG = "Hang"
    INTERNAL = "Internal"


class ExitCode(IntEnum):
    """Exit code of the supervisor, one per class."""

    SUCCESS = 0
    USER_CONFIG = 2
    USER_DATA = 3
    OUT_OF_MEMORY = 4
    STORAGE = 5
    NUMERICAL = 6
    COMMUNICATION = 7
    PREEMPTED = 8
    HANG = 9
    INTERNAL = 10

    @classmethod
    def of(cls, failure: FailureClass) -> Self:
        """The exit code that stands for a class."""
        return cls[failure.name]

    @property
    def failure(self) -> FailureClass:
        """The class that this exit code stands for."""
        return FailureClass[self.name]


Place = Annotated[str, Field(max_length=128), AfterValidator(partial(_shown, at_most=128))]
"""Where in the program a failure arose, such as `training/loop.py:212`, or what the rank was doing; escaped
for terminals."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Uri = Annotated[str, Field(max_length=1024)]
Reason = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]{0,63}$")]
Task = Literal["TextClassification", "TextGeneration"]
MetricName = Literal[
    "accuracy", "macroF1", "microF1", "weightedF1", "mcc", "loss", "perplexity", "tokenAccuracy"
]
HIGHER_IS_BETTER: dict[MetricName, bool] = {
    "accuracy": True,
    "macroF1": True,
    "microF1": True,
    "weightedF1": True,
    "mcc": True,
    "loss": False,
    "perplexity": False,
    "tokenAccuracy": True,
}
"""Which way each metric is better; those of which more is better are at most 1."""
METRICS: dict[Task, tuple[MetricName, ...]] = {
    "TextClassification": ("accuracy", "macroF1", "microF1", "weightedF1", "mcc"),
    "TextGeneration": ("loss", "perplexity", "tokenAccuracy"),
}
"""The metrics of each task, all of which are reported unless a job asks for fewer."""
PRIMARY_METRIC: dict[Task, MetricName] = {"TextClassification": "macroF1", "TextGeneration": "loss"}
"""The metric that decides where a job does not say."""


class Interval(Model):
    """A measured value with its 95 % bootstrap interval over the test rows."""

    value: FiniteFloat
    """What was measured."""
    low: FiniteFloat
    """Lower end of the interval."""
    high: FiniteFloat
    """Upper end of the interval."""


class Scores(Model):
    """What one model scores on the test rows."""

    primary: FiniteFloat
    """Value of the primary metric, rounded to four decimals, where a printer column can reach it."""
    metrics: Annotated[dict[MetricName, Interval], Field(max_length=16)]
    """Every requested metric by name."""


class Evaluation(Model):
    """Base model and tuned model on the same held-out rows."""

    primary_metric: MetricName
    """The metric that decides."""
    rows: PositiveInt
    """Test rows that all models were measured on."""
    majority: Scores | None = None
    """TextClassification: always answering with the most frequent class of the training rows."""
    baseline: Scores
    """The base model: as it is (TextGeneration), or a linear probe (logistic regression) on its frozen
    features (TextClassification)."""
    tuned: Scores | None = None
    """The best checkpoint of this run."""
    delta: Scores | None = None
    """Tuned minus baseline, whichever way the metric is better; intervals from a paired bootstrap over the
    test rows."""


class RowCounts(Model):
    """Rows after checking and splitting."""

    train: NonNegativeInt
    """Rows to train on."""
    validation: NonNegativeInt
    """Rows to choose the best checkpoint on."""
    test: NonNegativeInt
    """Rows to measure on."""
    dropped: NonNegativeInt
    """Rows left out: unreadable, empty, or also present in the test rows."""


class Findings(Model):
    """How many findings the data report has."""

    errors: NonNegativeInt = 0
    """Findings that left rows out."""
    warnings: NonNegativeInt = 0
    """Findings to look at."""


class Chosen(Model):
    """Every value that was `Auto`, decided by Prepare, and what follows from it."""

    epochs: PositiveInt
    """Passes over the training rows."""
    batch_size: PositiveInt
    """Rows per optimizer step over all processes: micro-batch x accumulation x world size."""
    micro_batch_size: PositiveInt
    """Rows per forward pass of one process."""
    accumulation_steps: PositiveInt
    """Forward passes of one process per optimizer step."""
    world_size: PositiveInt
    """Processes of the whole gang."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    """Peak learning rate."""
    max_length: PositiveInt
    """Tokens kept of a row."""
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    """DeepSpeed ZeRO stage."""
    total_steps: PositiveInt
    """Optimizer steps of the whole run."""


class PreparePayload(Model):
    """What Prepare found and decided."""

    kind: Literal["Prepare"] = "Prepare"
    data_digest: Digest
    model_digest: Digest
    prepared: Uri
    """Folder of the tokenised shards."""
    rows: RowCounts
    labels: NonNegativeInt
    """Number of classes."""
    tokens: NonNegativeInt
    """Tokens of the training rows, once through."""
    truncated_tokens: NonNegativeInt
    """Tokens of the training rows lost to maxLength."""
    parameters: PositiveInt
    """Parameters of the base model."""
    chosen: Chosen
    findings: Findings
    report: Uri
    """The data report (JSON)."""


class Best(Model):
    """The checkpoint that was kept, by the primary metric on the validation rows."""

    step: NonNegativeInt
    metric: FiniteFloat


class TrainPayload(Model):
    """What training reached."""

    kind: Literal["Train"] = "Train"
    best: Best
    evaluation: Evaluation
    staging: Uri
    """Folder of the tuned model before verification."""
    peak_memory_bytes: NonNegativeInt
    gpu_seconds: NonNegativeInt
    """Seconds x GPUs held by the training processes; 0 on CPUs."""


class PublishPayload(Model):
    """What was published."""

    kind: Literal["Publish"] = "Publish"
    uri: Uri
    digest: Digest
    """SHA-256 of the manifest, which names every file with its own digest."""
    size_bytes: NonNegativeInt
    report: Uri


class CleanupPayload(Model):
    """What was removed of a deleted run."""

    kind: Literal["Cleanup"] = "Cleanup"
    objects: NonNegativeInt
    uploads: NonNegativeInt
    """Multipart uploads aborted."""
    versions: NonNegativeInt = 0
    """Older versions and delete markers deleted, in a bucket that keeps versions."""
    versions_left: NonNegativeInt = 0
    """Older versions and delete markers that stay, at least, because the keys may not delete them."""


Payload = Annotated[
    PreparePayload | TrainPayload | PublishPayload | CleanupPayload, Field(discriminator="kind")
]


class CheckpointRef(Model):
    """A durable checkpoint."""

    step: NonNegativeInt
    digest: Digest


class ResultRef(Model):
    """Where the complete result of a stage lies."""

    uri: Uri
    digest: Digest


class TerminationMessage(Model):
    """The last word of a pod: its own cause; index 0 adds payload and result."""

    contract_version: str = CONTRACT_VERSION
    stage: Stage
    attempt: PositiveInt
    config_digest: Digest
    failure: Annotated[FailureClass, Field(alias="class")]
    reason: Reason
    message: Message
    hint: Hint = ""
    """What the reader can do about it."""
    place: Place | None = None
    """Where the failure arose: the line of the trainer, or the activity of a rank that left no error. The
    operator compares the places of two failed attempts."""
    step: NonNegativeInt | None = None
    epoch: FiniteFloat | None = None
    checkpoint: CheckpointRef | None = None
    """Reserved; not set yet."""
    payload: Payload | None = None
    result: ResultRef | None = None

    def encode(self) -> bytes:
        """The message as JSON of at most 4,096 bytes.

        What gives way, in this order and only as far as needed: digits beyond six, the hint, the message,
        metrics beside the primary one, and the result's place, which can be listed.
        """
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if _excess(document) > 0:
            document = _rounded(document)
        for text in ("hint", "message"):
            if (over := _excess(document)) > 0:
                document[text] = _shorten(document[text], over)
        if _excess(document) > 0:
            _keep_primary_metric(document.get("payload", {}).get("evaluation", {}))
        if _excess(document) > 0:
            document.pop("result", None)
        return _json(document)

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Reads a message of a tenant's pod.

        Raises:
            ContractError: not JSON, too long, of another major version, or with fields out of bounds.
        """
        if len(text) > MAX_MESSAGE_BYTES:
            raise ContractError(f"termination message of {len(text)} bytes, at most {MAX_MESSAGE_BYTES}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ContractError(f"termination message is not JSON: {error}") from None
        version = document.get("contractVersion") if isinstance(document, dict) else None
        if not isinstance(version, str) or not speaks(version):
            raise ContractError(f"contract version {version!r}, this side speaks {CONTRACT_VERSION}")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ContractError(f"termination message: {where}: {first['msg']}") from None


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


def speaks(version: str) -> bool:
    """Whether a document of this contract version can be understood: the major version is the same."""
    return version.partition(".")[0] == CONTRACT_VERSION.partition(".")[0]


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _excess(document: dict[str, Any]) -> int:
    return len(_json(document)) - MAX_MESSAGE_BYTES


def _rounded(value: Any) -> Any:
    """The same with all numbers cut to six significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _keep_primary_metric(evaluation: dict[str, Any]) -> None:
    for scores in evaluation.values():
        if isinstance(scores, dict):
            primary = evaluation["primaryMetric"]
            scores["metrics"] = {name: told for name, told in scores["metrics"].items() if name == primary}


def _shorten(text: str, by: int) -> str:
    keep = max(0, len(text) - by - 8)
    return text[:keep] + "..." if keep else ""
