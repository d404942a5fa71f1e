"""TrainConfig: the trainer's input language, one JSON file. No torch here: the operator renders it."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, PositiveInt, ValidationError

from finetune_trainer.contract import (
    CONTRACT_VERSION,
    RENDEZVOUS_PORT,
    Chosen,
    Digest,
    MetricName,
    Model,
    Stage,
    Task,
    Uri,
    speaks,
)

Auto = Literal["Auto"]
Offload = Literal["None", "Optimizer", "OptimizerAndParameters"]
TrainOn = Literal["Completion", "All"]
HeadInit = Literal["Auto", "Random", "LinearProbe"]
ClassWeights = Literal["None", "Balanced", "SquareRoot"]
Schedule = Literal["Linear", "Cosine", "Constant"]
Precision = Literal["Auto", "Float32", "BFloat16"]
StoreRole = Literal["data", "model", "output"]
ALL_LINEAR = "AllLinear"
"""Stands for every linear layer where names of layers are asked for."""


class ConfigError(ValueError):
    """The config file cannot be used; the text names field, value and way out."""


class JobRef(Model):
    """Whose run this is."""

    namespace: str
    name: str
    uid: str
    generation: PositiveInt


class StoreAccess(Model):
    """How to reach one S3 store. Credentials are files beside it, never in here."""

    endpoint: str
    """With scheme, for example https://minio.storage.svc:9000."""
    region: str = "us-east-1"
    ca_bundle: bool = False
    """Whether this store's own CA is mounted; it is added to the system's."""


class Stores(Model):
    """One store for each role; often the same three times."""

    data: StoreAccess
    model: StoreAccess
    output: StoreAccess
    """Also holds everything of the run."""


class ParentJob(Model):
    """The FineTuneJob that published a model."""

    namespace: str
    name: str
    uid: str
    manifest: Digest
    """SHA-256 of manifest.json in the model's folder."""


class ModelSource(Model):
    """The base model: a folder of safetensors and JSON files."""

    uri: Uri
    parent: ParentJob | None = None
    """Who published it, where that was a FineTuneJob; Prepare refuses another model at that place."""


class TrainSplit(Model):
    """The training rows. Exactly one is set."""

    uri: Uri | None = None
    """A file, or a folder, which ends in a slash: every data file below it."""
    uris: tuple[Uri, ...] = ()
    """Several of either, in the order in which they are read."""


class HeldOut(TrainSplit):
    """Held-out rows: files of their own, or a share of the training rows. Exactly one is set."""

    split: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training rows, drawn by class with the run's seed."""


class Columns(Model):
    """Which columns (keys of a JSON row) to read."""

    text: str = "text"
    label: str = "label"
    messages: str = "messages"
    prompt: str = "prompt"
    completion: str = "completion"


class Dataset(Model):
    """Training, validation and test rows."""

    train: TrainSplit
    validation: HeldOut
    test: HeldOut
    columns: Columns = Columns()
    max_bad_row_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """More unreadable rows than this fail Prepare; up to it they are left out and listed."""


class Lora(Model):
    """LoRA (arXiv 2106.09685): the weights stay, small matrices beside them are trained."""

    kind: Literal["LoRA"] = "LoRA"
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """What the small matrices add is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = (ALL_LINEAR,)
    """Ends of the names of the linear layers that are adapted, or ALL_LINEAR: every one below the head."""
    merge: bool = False
    """Whether the whole model is published, or the small matrices alone."""


class FreezeLayers(Model):
    """The last layers and what comes after them are trained; all before them stays as it is."""

    kind: Literal["FreezeLayers"] = "FreezeLayers"
    train_last: PositiveInt
    """How many layers are trained."""


Method = Literal["Full"] | Lora | FreezeLayers


class Training(Model):
    """Hyper-parameters; `Auto` (and a learning rate of None) is decided by Prepare."""

    epochs: PositiveInt | Auto = "Auto"
    batch_size: PositiveInt | Auto = "Auto"
    micro_batch_size: PositiveInt | Auto = "Auto"
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    schedule: Schedule = "Linear"
    max_gradient_norm: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    max_length: PositiveInt | Auto = "Auto"
    train_on: TrainOn = "Completion"
    """Which tokens of a row a generator learns."""
    head_init: HeadInit = "Auto"
    """Start of a new classification head; `Auto` is `LinearProbe`."""
    class_weights: ClassWeights = "None"
    """Weight of each class in the loss of a classifier."""
    precision: Precision = "Auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42


class World(Model):
    """The gang: one pod a node, so many processes in each."""

    nodes: PositiveInt = 1
    processes_per_node: PositiveInt = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """0: CPU and gloo; else one process a GPU and NCCL."""

    @property
    def size(self) -> int:
        """Number of processes (ranks)."""
        return self.nodes * self.processes_per_node


class EvaluationSpec(Model):
    """What is measured on the test rows."""

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)]
    primary_metric: MetricName = "macroF1"


class Run(Model):
    """What is asked for: the same for every stage and attempt. Its digest is the config digest."""

    task: Task
    model: ModelSource
    dataset: Dataset
    method: Method = "Full"
    training: Training = Training()
    zero_stage: Annotated[int, Field(ge=0, le=3)] | Auto = "Auto"
    offload: Offload = "None"
    """What is kept in the memory of the host instead of the GPU's."""
    world: World = World()
    evaluation: EvaluationSpec
    output: Uri
    """Folder of the published model, ends in a slash."""
    runs: Uri
    """Folder of everything else of this run, ends in a slash; deleted by the cleanup."""
    stores: Stores

    def digest(self) -> Digest:
        """SHA-256 of the canonical JSON of this run."""
        return digest_of(self)


class Rendezvous(Model):
    """Where the processes of a gang meet."""

    master_address: str = "127.0.0.1"
    """DNS name of index 0; fully qualified with a trailing dot in a cluster."""
    master_port: Annotated[int, Field(ge=1, le=65535)] = RENDEZVOUS_PORT
    startup_deadline_seconds: PositiveInt = 300
    """Until the master answers and all ranks have joined."""


class TrainConfig(Model):
    """The whole input of a trainer pod."""

    contract_version: str = CONTRACT_VERSION
    stage: Stage
    attempt: PositiveInt
    job: JobRef
    run: Run
    chosen: Chosen | None = None
    """Prepare's decisions; set for Train and Publish."""
    prepared: Digest | None = None
    """Data digest of Prepare's shards; set for Train and Publish."""
    readback_stage: Literal["Prepare", "Train", "Publish"] | None = None
    """Stage Readback only: whose result to read back."""
    rendezvous: Rendezvous = Rendezvous()
    hang_timeout_seconds: PositiveInt = 600
    """How long a rank may show no sign of life."""
    preemption_grace_seconds: PositiveInt = 120
    """What the pod gets between SIGTERM and SIGKILL."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and checks the config file.

        Raises:
            ConfigError: missing, not JSON, another major contract version, or a field out of bounds.
        """
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the config file {path}: {error}") from None
        version = document.get("contractVersion") if isinstance(document, dict) else None
        if not isinstance(version, str) or not speaks(version):
            raise ConfigError(f"contractVersion: {version!r}; this trainer speaks {CONTRACT_VERSION}")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{where}: {first['msg']} (got {first['input']!r:.200})") from None


def digest_of(document: Model) -> Digest:
    """SHA-256 of a document's canonical JSON (sorted keys, no spaces), defaults left out.

    A release that adds a field whose default is the old behaviour finds the results of the one before.
    """
    plain = document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
