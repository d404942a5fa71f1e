"""FineTuneJob, version v1alpha1: what a person writes and what they read back.

The text under a field is what `kubectl explain` shows. Bounds and CEL rules are checked by the API server;
what only the data or the model can tell is checked by Prepare.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt
from pydantic.config import JsonDict, JsonValue

from finetune_operator.names import State
from finetune_trainer.contract import (
    Chosen,
    Evaluation,
    Findings,
    MetricName,
    Model,
    RowCounts,
)

INT_OR_STRING: JsonDict = {"x-kubernetes-int-or-string": True}


def rule(cel: str, message: str, field: str | None = None) -> JsonDict:
    """One CEL rule of the schema; `field` is the path that the API server names in its refusal."""
    made: JsonDict = {"rule": cel, "message": message}
    if field:
        made["fieldPath"] = field
    return made


def rules(*each: JsonDict) -> ConfigDict:
    """A model's CEL rules."""
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": list(each)})


def auto_or(low: int, high: int) -> Any:
    """Schema of an integer between two bounds or the word Auto."""
    return Field(
        json_schema_extra={
            **INT_OR_STRING,
            "x-kubernetes-validations": [
                rule(
                    f"type(self) == int ? self >= {low} && self <= {high} : self == 'Auto'",
                    f"must be Auto or a whole number from {low} to {high}",
                )
            ],
        }
    )


def _folder(uri: str) -> str:
    """CEL: a folder's URI with its closing slash."""
    return f"({uri}.endsWith('/') ? {uri} : {uri} + '/')"


def _folder_of(uri: str) -> str:
    """CEL: the folder that a file lies in."""
    return f"{uri}.substring(0, {uri}.lastIndexOf('/') + 1)"


Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Key = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
S3_PREFIX = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/"
NO_ESCAPES: list[JsonValue] = [
    rule("!self.contains('..')", "must not contain '..'"),
    rule("!self.contains('%')", "must not contain '%': write the key itself, not percent-encoded"),
    rule("!self.substring(5).contains('//')", "must not contain an empty path segment ('//')"),
]
FileUri = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=S3_PREFIX + r"[^?#@\s\\]*[^/?#@\s\\]$",
        json_schema_extra={"x-kubernetes-validations": NO_ESCAPES},
    ),
]
FolderUri = Annotated[
    str,
    Field(
        max_length=900,
        pattern=S3_PREFIX + r"[^?#@\s\\]*$",
        json_schema_extra={"x-kubernetes-validations": NO_ESCAPES},
    ),
]
ModelUri = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=S3_PREFIX + r"[^?#@\s\\]+$",
        json_schema_extra={"x-kubernetes-validations": NO_ESCAPES},
    ),
]
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
Quantity = Annotated[
    str,
    BeforeValidator(str),
    Field(
        max_length=20,
        pattern=QUANTITY,
        json_schema_extra={
            **INT_OR_STRING,
            "pattern": QUANTITY,  # pydantic leaves it out after a validator
            "x-kubernetes-validations": [
                rule(
                    "type(self) == int ? self > 0 : self.matches('[1-9]')",
                    "must be a quantity above 0, such as 2, 500m or 8Gi",
                )
            ],
        },
    ),
]
# The API server compares a whole number with a bound cut to a whole number: 0 would pass 0.001.
Split = Annotated[
    float,
    Field(
        ge=0.001,
        le=0.9,
        json_schema_extra={"x-kubernetes-validations": [rule("self >= 0.001", "must be from 0.001 to 0.9")]},
    ),
]


class SecretRef(Model):
    """Credentials of an S3 store, in a Secret of the job's own namespace."""

    name: Name
    """Name of the Secret. Whoever applies the job must be allowed to `get` it."""
    access_key_key: Key = "accessKey"
    """Key of the Secret that holds the access key. Default accessKey."""
    secret_key_key: Key = "secretKey"  # noqa: S105 - the name of a key
    """Key of the Secret that holds the secret key. Default secretKey."""


class CaBundleRef(Model):
    """A certificate authority, in a ConfigMap of the job's own namespace."""

    name: Name
    """Name of the ConfigMap."""
    key: Key = "ca.crt"
    """Key of the ConfigMap that holds the certificates (PEM). Default ca.crt."""


class Storage(Model):
    """How to reach an S3 store (MinIO or another) and with whose keys."""

    endpoint: Annotated[
        str,
        Field(
            max_length=300,
            pattern=r"^https?://([a-z0-9]([-a-z0-9.]*[a-z0-9])?|\[[0-9a-f:]+\])(:[0-9]{1,5})?/?$",
        ),
    ]
    """URL of the store with scheme and no path, for example https://minio.storage.svc:9000. Plain http is
    refused unless the operator's settings allow it."""
    region: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9-]+$")] = "us-east-1"
    """Region that requests are signed for. Default us-east-1, as in MinIO."""
    secret_ref: SecretRef
    """Where the keys are."""
    ca_bundle_ref: CaBundleRef | None = None
    """The store's own certificate authority, added to the system's. Default: the system's alone."""


class ModelSpec(Model):
    """The base model."""

    uri: ModelUri
    """Folder in S3 with config.json, tokenizer.json and *.safetensors, for example s3://models/minilm.
    Pickled weights and remote code are refused."""
    storage: Storage | None = None
    """Store of the base model. Default: spec.storage."""


class TrainFile(Model):
    """The training rows."""

    uri: FileUri
    """A JSON Lines (.jsonl) or CSV (.csv) file in S3; .gz is unpacked."""


class HeldOutFile(Model):
    """Held-out rows: a file of their own, or a share of the training rows."""

    model_config = rules(rule("has(self.uri) != has(self.split)", "set exactly one of uri and split"))

    uri: FileUri | None = None
    """A file like train.uri. Set this or split."""
    split: Split | None = None
    """Share of the training rows to hold out, 0.001 to 0.9, drawn by class with training.seed. Set this or
    uri."""


class Columns(Model):
    """Which columns (of CSV) or keys (of a JSON row) hold what."""

    text: Annotated[str, Field(min_length=1, max_length=128)] = "text"
    """Column with the text to classify. Default text."""
    label: Annotated[str, Field(min_length=1, max_length=128)] = "label"
    """Column with the class, as a word or a number. Default label."""


class DatasetSpec(Model):
    """Rows to train on, to choose the best checkpoint on, and to measure on."""

    model_config = rules(
        rule(
            "!has(self.test) || !has(self.test.uri) || self.test.uri != self.train.uri",
            "test.uri is the same file as train.uri: a model must not be measured on what it was trained on",
            ".test",
        ),
        rule(
            "(has(self.validation) && has(self.validation.split) ? self.validation.split : 0.0)"
            " + (has(self.test) && has(self.test.split) ? self.test.split : 0.0) < 0.95",
            "validation.split and test.split together leave fewer than 5 % of the rows to train on",
        ),
    )

    train: TrainFile
    """The training rows."""
    validation: HeldOutFile = HeldOutFile(split=0.1)
    """Rows that the best checkpoint is chosen on. Default: a split of 0.1."""
    test: HeldOutFile = HeldOutFile(split=0.1)
    """Rows that base model and tuned model are measured on; never trained on, never chosen on. Default: a
    split of 0.1."""
    columns: Columns = Columns()
    """Which columns hold what."""
    max_bad_row_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    """Unreadable rows (no JSON, text or label missing, ...) up to this share of a file are left out and
    listed in the report; more fail the job. Default 0.01."""
    storage: Storage | None = None
    """Store of the data. Default: spec.storage."""


class MethodSpec(Model):
    """What of the model is trained."""

    type: Literal["Full"] = "Full"
    """Full: every weight. Default Full."""


class TrainingSpec(Model):
    """Hyper-parameters. What Prepare chose for `Auto` is in status.chosen."""

    model_config = rules(
        rule(
            "type(self.batchSize) != int || type(self.microBatchSize) != int"
            " || int(self.batchSize) % int(self.microBatchSize) == 0",
            "batchSize must be a multiple of microBatchSize (batchSize = microBatchSize x accumulation x"
            " number of processes)",
            ".batchSize",
        )
    )

    epochs: Annotated[int | Literal["Auto"], auto_or(1, 1000)] = "Auto"
    """Passes over the training rows, 1 to 1000. Auto: 12,000 / rows, rounded up, from 2 to 10. Default
    Auto."""
    batch_size: Annotated[int | Literal["Auto"], auto_or(1, 1048576)] = "Auto"
    """Rows per optimizer step over all processes: micro-batch x accumulation x number of processes. Auto: the
    multiple of the number of processes nearest to 32. Default Auto."""
    micro_batch_size: Annotated[int | Literal["Auto"], auto_or(1, 65536)] = "Auto"
    """Rows per forward pass of one process. Auto: the largest divisor of a process's share of the batch
    that is at most 16. Default Auto."""
    learning_rate: Annotated[float, Field(gt=0, le=0.1)] | None = None
    """Peak learning rate, above 0, at most 0.1. Left out: 5e-5 for models below 100 million parameters,
    else 2e-5."""
    weight_decay: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    """AdamW's weight decay, not applied to biases and norms, 0 to 0.5. Default 0.01."""
    warmup_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """Share of the steps over which the learning rate rises from 0, 0 to 0.9. Default 0.1."""
    schedule: Literal["Linear", "Cosine", "Constant"] = "Linear"
    """How the learning rate falls after warm-up. Default Linear (to 0)."""
    max_gradient_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Gradients are scaled down to this L2 norm, above 0, at most 1000. Default 1."""
    max_length: Annotated[int | Literal["Auto"], auto_or(8, 131072)] = "Auto"
    """Tokens kept of a row; the rest is cut, and counted in the report. Auto: the 99th percentile of the
    training rows, at most 512 and what the model can read. Default Auto."""
    precision: Literal["Auto", "Float32", "BFloat16"] = "Auto"
    """Arithmetic of forward and backward pass; weights are kept in float32. Auto: BFloat16 on GPUs that have
    it, else Float32. Default Auto."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 42
    """Seed of splits, shuffling, initial head and dropout. Default 42."""


class DeepSpeedSpec(Model):
    """DeepSpeed's own settings."""

    zero_stage: Annotated[int | Literal["Auto"], auto_or(0, 3)] = "Auto"
    """What is sharded over the processes: 0 nothing, 1 optimizer states, 2 also gradients, 3 also
    parameters. Auto: 0 on one process, else 2. Default Auto."""


class ResourcesSpec(Model):
    """What a run may take of the cluster."""

    model_config = rules(
        rule(
            "self.gpusPerNode == 0 || !has(self.processesPerNode)"
            " || self.processesPerNode == self.gpusPerNode",
            "processesPerNode must equal gpusPerNode: one process drives one GPU; leave it out",
            ".processesPerNode",
        )
    )

    profile: Name = "default"
    """Name of a profile in the operator's settings: images, node selectors, tolerations, defaults. Default
    `default`."""
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Train pods, one a node. Default 1."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of each Train pod; 0 trains on CPUs. Default 0."""
    processes_per_node: Annotated[int, Field(ge=1, le=256)] | None = None
    """Training processes of each pod. Default: gpusPerNode, or 1 on CPUs."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm of each Train pod, for example 8Gi. Default: the profile's."""
    memory: Quantity | None = None
    """Memory of each Train pod, request and limit. Default: the profile's."""
    cpu: Quantity | None = None
    """CPUs of each Train pod, request and limit. Default: the profile's."""


class EvaluationSpec(Model):
    """What is measured on the test rows, for the base model and the tuned one."""

    model_config = rules(
        rule(
            "self.metrics.exists(m, m == self.primaryMetric)",
            "primaryMetric must be one of metrics",
            ".primaryMetric",
        )
    )

    metrics: Annotated[
        list[MetricName],
        Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = ["accuracy", "macroF1", "microF1", "weightedF1", "mcc"]
    """Metrics to report. Default: accuracy, macroF1, microF1, weightedF1, mcc."""
    primary_metric: MetricName = "macroF1"
    """The metric that chooses the best checkpoint and is shown in the columns. Default macroF1."""


class OutputSpec(Model):
    """Where the tuned model goes."""

    uri: FolderUri
    """Folder in S3 below which the model is published as <namespace>/<name>/<suffix>/. It appears only
    complete: manifest.json is written last."""
    suffix: (
        Annotated[
            str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$")
        ]
        | None
    ) = None
    """Last folder of the published model, for example v2. Default: the first 8 characters of the job's
    uid."""
    storage: Storage | None = None
    """Store of the published model and of everything else of the run. Default: spec.storage."""


class TtlSpec(Model):
    """What is removed after the end, and when. Durations such as 90s, 10m, 720h."""

    pods_after_finished: Annotated[str, Field(max_length=8, pattern=r"^[0-9]{1,7}(s|m|h)$")] = "10m"
    """How long finished pods (and their logs) stay. Default 10m."""
    after_finished: Annotated[str, Field(max_length=8, pattern=r"^[0-9]{1,7}(s|m|h)$")] | None = None
    """How long the FineTuneJob itself stays after its end; the published model always stays. Default:
    forever."""


class FineTuneJobSpec(Model):
    """What is asked for. May be changed until training starts; then only suspend and ttl may."""

    model_config = rules(
        rule(
            f"!{_folder('self.output.uri')}.startsWith({_folder('self.model.uri')})",
            "output.uri lies in the base model's folder (model.uri), which must not be written into",
            ".output.uri",
        ),
        rule(
            f"{_folder('self.output.uri')} != {_folder_of('self.dataset.train.uri')}"
            f" && (!has(self.dataset.test.uri)"
            f" || {_folder('self.output.uri')} != {_folder_of('self.dataset.test.uri')})"
            f" && (!has(self.dataset.validation.uri)"
            f" || {_folder('self.output.uri')} != {_folder_of('self.dataset.validation.uri')})",
            "output.uri is the folder of a file of dataset: give the output a folder of its own",
            ".output.uri",
        ),
    )

    task: Literal["TextClassification"]
    """What the model learns. TextClassification: one of several classes for each text."""
    model: ModelSpec
    """The base model."""
    dataset: DatasetSpec
    """Rows to train on, to choose on and to measure on."""
    method: MethodSpec = MethodSpec()
    """What of the model is trained."""
    training: TrainingSpec = TrainingSpec()
    """Hyper-parameters."""
    deepspeed: DeepSpeedSpec = DeepSpeedSpec()
    """DeepSpeed's own settings."""
    resources: ResourcesSpec = ResourcesSpec()
    """What the run may take of the cluster."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """What is measured."""
    output: OutputSpec
    """Where the tuned model goes."""
    storage: Storage | None = None
    """The S3 store of model, data and output, where they name none of their own. Default: the profile's."""
    ttl: TtlSpec = TtlSpec()
    """What is removed after the end."""
    suspend: bool = False
    """True stops the run's pods and keeps its results; false goes on with the stage it was in. Default
    false."""


class ConditionStatus(Model):
    """One condition, as the Kubernetes API conventions have it."""

    type: Annotated[str, Field(max_length=64)]
    """Prepared, Running, Evaluated, Published, Suspended, Finished, or the summary Succeeded."""
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
    micro_batch_size: PositiveInt | None = None
    """Micro-batch of this attempt, where it differs from status.chosen (halved after out of memory)."""


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
    """Every try at every stage, oldest first."""
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
    """The evaluation report in S3, beside the model."""


class FineTuneJob(Model):
    """Fine-tunes a model on data of your own, measures it against its base, and publishes it to S3."""

    model_config = rules(
        rule(
            "!has(oldSelf.status) || !has(oldSelf.status.attempts)"
            " || !oldSelf.status.attempts.exists(a, a.stage == 'Train')"
            " || (self.spec.task == oldSelf.spec.task && self.spec.model == oldSelf.spec.model"
            " && self.spec.dataset == oldSelf.spec.dataset && self.spec.method == oldSelf.spec.method"
            " && self.spec.training == oldSelf.spec.training"
            " && self.spec.deepspeed == oldSelf.spec.deepspeed"
            " && self.spec.resources == oldSelf.spec.resources"
            " && self.spec.evaluation == oldSelf.spec.evaluation"
            " && self.spec.output == oldSelf.spec.output"
            " && has(self.spec.storage) == has(oldSelf.spec.storage)"
            " && (!has(self.spec.storage) || self.spec.storage == oldSelf.spec.storage))",
            "training has started: only spec.suspend and spec.ttl may be changed; for anything else apply a"
            " job of another name",
            ".spec",
        ),
    )

    api_version: str
    kind: str
    metadata: dict[str, Any]
    spec: FineTuneJobSpec
    """What is asked for."""
    status: FineTuneJobStatus | None = None
    """What is, as the operator last saw it."""
