"""The configuration of the trainer, one JSON file.

The operator imports this module, so this module imports no torch.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, PositiveInt, ValidationError

from finetune_trainer.contract import (
    CONTRACT_VERSION,
    MAX_IN_PLACE_RESTARTS,
    RENDEZVOUS_PORT,
    Chosen,
    Digest,
    MetricName,
    Model,
    Offload,
    Stage,
    Task,
    Uri,
    speaks,
)

Auto = Literal["Auto"]
TrainOn = Literal["Completion", "All"]
HeadInit = Literal["Auto", "Random", "LinearProbe"]
ClassWeights = Literal["None", "Balanced", "SquareRoot"]
Schedule = Literal["Linear", "Cosine", "Constant"]
Checkpointing = Literal["Auto", "Enabled", "Disabled"]
Precision = Literal["Auto", "Float32", "BFloat16"]
LoraScaling = Literal["Standard", "RankStabilized"]
LoraInitialization = Literal["Default", "PiSSA"]
LoraQuantization = Literal["None", "NF4"]
ComputeType = Literal["float32", "bfloat16"]
"""Data type of matrix products; see models.dtypes."""
StoreRole = Literal["data", "model", "output"]
ALL_LINEAR = "AllLinear"
"""Selects every linear layer in a field that takes names of layers."""


class ConfigError(ValueError):
    """The config file cannot be used; the text names the field, its value and the error."""


class JobRef(Model):
    """The FineTuneJob of the run."""

    namespace: str
    name: str
    uid: str
    generation: PositiveInt


class StoreAccess(Model):
    """The address of one S3 store. The credentials are separate files and never part of the config."""

    endpoint: str
    """URL with scheme, host and port, for example https://minio.storage.svc:9000."""
    region: str = "us-east-1"
    ca_bundle: bool = False
    """Whether a CA bundle for this store is mounted; its certificates are added to those of the system."""


class Stores(Model):
    """The store of each role; several roles may use the same store."""

    data: StoreAccess
    model: StoreAccess
    output: StoreAccess
    """The store of the published model and of all other files of the run."""


class ParentJob(Model):
    """The FineTuneJob that published a model."""

    namespace: str
    name: str
    uid: str
    manifest: Digest
    """SHA-256 of manifest.json in the folder of the model."""


class ModelSource(Model):
    """The base model: a folder of safetensors and JSON files."""

    uri: Uri
    parent: ParentJob | None = None
    """The FineTuneJob that published the model, or None. Prepare fails if the folder has another manifest."""


class TrainSplit(Model):
    """The files of the training rows. Exactly one field is set."""

    uri: Uri | None = None
    """A data file, or a folder (with a slash at the end): all data files below the folder."""
    uris: tuple[Uri, ...] = ()
    """Several files or folders, in the order of reading."""


class HeldOut(TrainSplit):
    """Held-out rows: separate files, or a fraction of the training rows. Exactly one field is set."""

    split: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the training rows, drawn for each class with the seed of the run."""


class Columns(Model):
    """The names of the columns (keys of a JSON row) to read."""

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
    """Prepare fails if a larger fraction of the rows cannot be read; else Prepare leaves these rows out."""


Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[int, Field(ge=1, le=4096)]


class ModuleRank(Model):
    """The rank of some of the layers that LoRA adapts."""

    modules: Annotated[tuple[str, ...], Field(min_length=1)]
    """Suffixes of the names of the layers."""
    rank: Rank
    alpha: Alpha


class Lora(Model):
    """LoRA (arXiv 2106.09685): trains low-rank matrices beside the weights, which stay unchanged."""

    kind: Literal["LoRA"] = "LoRA"
    rank: Rank = 16
    alpha: Alpha = 32
    """The output of the low-rank matrices is multiplied by a scale, see `scaling`."""
    scaling: LoraScaling = "Standard"
    """Scale: alpha / rank, or alpha / sqrt(rank) (rank-stabilized LoRA, arXiv 2312.03732)."""
    initialization: LoraInitialization = "Default"
    """Initial low-rank matrices: random with a product of 0, or the principal components of the weight
    (PiSSA, arXiv 2404.02948)."""
    weight_decomposition: bool = False
    """Whether the norms of the rows of each adapted weight are trained apart (DoRA, arXiv 2402.09353)."""
    quantization: LoraQuantization = "None"
    """Data type of the adapted weights of the base model during training: that of the run, or 4 bits (QLoRA,
    arXiv 2305.14314). Base model and tuned model are measured with the weights in the files."""
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = (ALL_LINEAR,)
    """Suffixes of the names of the linear layers to adapt, or ALL_LINEAR: all of them except the head."""
    exclude_modules: tuple[str, ...] = ()
    """Suffixes of the names of linear layers that are not adapted."""
    module_ranks: tuple[ModuleRank, ...] = ()
    """Ranks of some of the adapted layers; the first item that selects a layer applies."""
    train_embeddings: bool = False
    """Whether token embeddings and output layer are trained in full, and published with the adapter."""
    added_tokens: tuple[str, ...] = ()
    """Special tokens that the tokenizer of the run also has. Requires `train_embeddings`."""
    merge: bool = False
    """True: publish the base model with the adapter merged. False: publish the adapter alone."""
    served_base_name: str | None = None
    """Name of the base model in the config of a published adapter, see `Run.served_base_name`."""


class FreezeLayers(Model):
    """Trains the last layers and all modules after them; all modules before keep their weights."""

    kind: Literal["FreezeLayers"] = "FreezeLayers"
    train_last: PositiveInt
    """Number of layers to train, counted from the last layer."""


Method = Literal["Full"] | Lora | FreezeLayers


class Training(Model):
    """Hyperparameters; Prepare selects a value for `Auto`, and for a learning rate of None."""

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
    """The tokens of a row that TextGeneration learns: the answers, or all tokens."""
    head_init: HeadInit = "Auto"
    """Start of a new classification head; `Auto` is `LinearProbe`."""
    class_weights: ClassWeights = "None"
    """Weight of each class in the loss of a classifier."""
    activation_checkpointing: Checkpointing = "Auto"
    precision: Precision = "Auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42


class World(Model):
    """The size of the gang: pods (one for each node) and processes."""

    nodes: PositiveInt = 1
    processes_per_node: PositiveInt = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """0: training on CPUs with gloo; else on GPUs with NCCL, one process for each GPU."""

    @property
    def size(self) -> int:
        """World size: the number of processes (ranks) of the gang."""
        return self.nodes * self.processes_per_node


class EvaluationSpec(Model):
    """The metrics that are measured on the test rows."""

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)]
    primary_metric: MetricName = "macroF1"


class Run(Model):
    """The part of the config that is equal for all stages and attempts. Its digest is the config digest."""

    task: Task
    model: ModelSource
    dataset: Dataset
    method: Method = "Full"
    training: Training = Training()
    zero_stage: Annotated[int, Field(ge=0, le=3)] | Auto = "Auto"
    offload: Offload | Auto = "None"
    """The state that DeepSpeed keeps in the memory of the host instead of the memory of the GPU."""
    world: World = World()
    evaluation: EvaluationSpec
    output: Uri
    """Folder of the published model, with a slash at the end."""
    runs: Uri
    """Folder of all other files of this run, with a slash at the end; Cleanup deletes this folder."""
    stores: Stores

    @property
    def served_base_name(self) -> str:
        """Name under which a server serves the base model: the name in the job, or `base_name_of`."""
        given = self.method.served_base_name if isinstance(self.method, Lora) else None
        return given or base_name_of(self.model)

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """The tokens that the run adds to the tokenizer of the base model."""
        return self.method.added_tokens if isinstance(self.method, Lora) else ()

    def digest(self) -> Digest:
        """The config digest: SHA-256 of the canonical JSON of this document, see `digest_of`."""
        return digest_of(self)


class Rendezvous(Model):
    """The rendezvous of the processes of a gang."""

    master_address: str = "127.0.0.1"
    """DNS name of the pod with index 0; in a cluster fully qualified, with a dot at the end."""
    master_port: Annotated[int, Field(ge=1, le=65535)] = RENDEZVOUS_PORT
    startup_deadline_seconds: PositiveInt = 300
    """Time limit until all ranks have joined."""


class MemoryLimits(Model):
    """The memory that the site gives to a job, in bytes. Equal runs may have different limits."""

    gpu: PositiveInt | None = None
    """Memory of one GPU; None if unknown."""
    train: PositiveInt | None = None
    """Host memory that a Train pod may have; None if unlimited."""


class Checkpoints(Model):
    """When Train saves checkpoints, and how many of them stay. The values do not affect the result."""

    every_seconds: PositiveInt | Auto = "Auto"
    """Time between two checkpoints; Auto: from the measured pause of a checkpoint."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Number of the newest checkpoints that stay, beside their best checkpoints."""


class TrainConfig(Model):
    """The complete configuration of a trainer pod."""

    contract_version: str = CONTRACT_VERSION
    stage: Stage
    attempt: PositiveInt
    job: JobRef
    run: Run
    chosen: Chosen | None = None
    """The hyperparameters that Prepare selected; set for Train and Publish."""
    prepared: Digest | None = None
    """Data digest of the tokenised shards; set for Train and Publish."""
    readback_stage: Literal["Prepare", "Train", "Publish"] | None = None
    """Readback only: the stage whose result is read."""
    rendezvous: Rendezvous = Rendezvous()
    hang_timeout_seconds: PositiveInt = 600
    """Time without a heartbeat after which a rank hangs; an activity may set a longer time."""
    preemption_grace_seconds: PositiveInt = 120
    """Grace period of the pod between SIGTERM and SIGKILL."""
    checkpoints: Checkpoints | None = None
    """Set for Train. None: Train saves only checkpoints with the best weights, and each attempt starts at the
    first step."""
    in_place_restarts: Annotated[int, Field(ge=0, le=MAX_IN_PLACE_RESTARTS)] | None = None
    """Set for Train: number of restarts in place of the attempt. None or 0: a failure of a rank ends the
    pods."""
    skipped_step: PositiveInt | None = None
    """Optimizer step that Train skips, because its loss or gradient was not finite in an earlier attempt."""
    finish: bool | None = None
    """Set for Train that makes no step, and takes the best weights of the checkpoints of earlier attempts."""
    memory: MemoryLimits | None = None
    """Set for Prepare, which selects settings that fit in this memory."""
    nodes: PositiveInt | None = None
    """Train: number of pods of this attempt, if fewer than `run.world.nodes`. The run, and so its digest, is
    the same for each number of pods."""
    min_nodes: PositiveInt | None = None
    """Prepare: the smallest number of pods of an attempt of Train. Prepare selects settings that fit in the
    memory with this number of pods too. None: `run.world.nodes`."""
    serve_metrics: bool = False
    """Whether the pod serves /metrics, without authentication. If not, the operator serves these metrics."""

    @property
    def world(self) -> World:
        """The size of the gang of this attempt."""
        return self.run.world.model_copy(update={"nodes": self.nodes}) if self.nodes else self.run.world

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and validates the config file.

        Args:
            path: path of the JSON file.

        Raises:
            ConfigError: the file cannot be read, is no JSON, has another major contract version, or has a
                field out of bounds.
        """
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the config file {path}: {error}") from None
        version = document.get("contractVersion") if isinstance(document, dict) else None
        if not isinstance(version, str) or not speaks(version):
            raise ConfigError(f"contractVersion: {version!r}; this trainer reads version {CONTRACT_VERSION}")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{where}: {first['msg']} (got {first['input']!r:.200})") from None


def base_name_of(model: ModelSource) -> str:
    """The last part of the path of a base model; a hyphen replaces each unusual character."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", model.uri.rstrip("/").rpartition("/")[2])


def digest_of(document: Model) -> Digest:
    """SHA-256 of the canonical JSON of a document: sorted keys, no spaces, no fields with default values.

    Because defaults are left out, a new field whose default is the old behaviour does not change the digest
    of existing runs, and a new release finds the stored results of the previous release.
    """
    plain = document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
