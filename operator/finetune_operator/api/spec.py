"""What a person asks for: spec of a FineTuneJob."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_operator.api.endpoint import Endpoint
from finetune_operator.api.evaluation import EVALUATION_RULES, EvaluationSpec
from finetune_operator.api.fields import (
    DataUri,
    DataUris,
    FolderUri,
    Key,
    ModelUri,
    Name,
    Quantity,
    Split,
    apart,
    auto_or,
    data_uris,
    folder,
    folder_of,
    rule,
    rules,
)
from finetune_operator.api.method import MethodSpec
from finetune_trainer.contract import Model, Task


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


DEFAULT_REGION = "us-east-1"
Region = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9-]+$")]


class Storage(Model):
    """An S3 store and the keys for it: a store that the operator's settings name, or an endpoint."""

    model_config = rules(
        rule("has(self.store) != has(self.endpoint)", "set exactly one of store and endpoint"),
        rule(
            "!has(self.endpoint) || has(self.secretRef)",
            "endpoint is set, but secretRef is not: name the Secret with the keys of the store",
            ".secretRef",
        ),
        rule(
            "!has(self.store) || !has(self.region)",
            "store and region are set, but the operator's settings say the region of a store: leave out"
            " region",
            ".region",
        ),
        rule(
            "!has(self.store) || !has(self.caBundleRef)",
            "store and caBundleRef are set, but the operator's settings say the certificate authority of a"
            " store: leave caBundleRef out",
            ".caBundleRef",
        ),
    )

    store: Name | None = None
    """Name of a store in the operator's settings, which say its endpoint, region and certificate authority.
    Set this or endpoint."""
    endpoint: Endpoint | None = None
    """URL of another store with scheme and no path, for example https://minio.storage.svc:9000. The
    operator's settings may refuse endpoints of jobs, and refuse plain http unless they allow it. Set this
    or store."""
    region: Region | None = None
    """Region that requests to the endpoint are signed for. Default us-east-1, as in MinIO."""
    secret_ref: SecretRef | None = None
    """Secret with the keys. Required with endpoint. With store, the default is the Secret that the
    operator's settings name for the store."""
    ca_bundle_ref: CaBundleRef | None = None
    """Certificate authority of the endpoint, added to those of the system. Default: those of the system."""


class FromJob(Model):
    """Another FineTuneJob of the same namespace."""

    name: Name
    """Name of the FineTuneJob. This job waits until that one has succeeded, and from its first attempt on
    keeps to the model that was published then."""


class ModelSpec(Model):
    """The base model: a folder in S3, or what another FineTuneJob has published."""

    model_config = rules(rule("has(self.uri) != has(self.fromJob)", "set exactly one of uri and fromJob"))

    uri: ModelUri | None = None
    """Folder in S3 with config.json, tokenizer.json and *.safetensors, for example s3://models/minilm.
    Pickled weights and remote code are refused. Set this or fromJob."""
    from_job: FromJob | None = None
    """The job whose published model to start from. Set this or uri."""
    storage: Storage | None = None
    """Store of the base model, also of one that another job has published. Default: spec.storage."""


class TrainFiles(Model):
    """The training rows."""

    model_config = rules(rule("has(self.uri) != has(self.uris)", "set exactly one of uri and uris"))

    uri: DataUri | None = None
    """A file in S3: JSON Lines (.jsonl), CSV (.csv) or Parquet (.parquet); .gz and .zst are unpacked. Or a
    folder, which ends in a slash: every such file below it, in the order of their keys, but for names that
    start with _ or a dot. Set this or uris."""
    uris: DataUris | None = None
    """Up to 64 files and folders, read in this order; formats may differ. Set this or uri."""


class HeldOutFiles(Model):
    """Held-out rows: files of their own, or a share of the training rows."""

    model_config = rules(
        rule(
            "[has(self.uri), has(self.uris), has(self.split)].exists_one(set, set)",
            "set exactly one of uri, uris and split",
        )
    )

    uri: DataUri | None = None
    """A file or folder like train.uri. Set this, uris or split."""
    uris: DataUris | None = None
    """Files and folders like train.uris. Set this, uri or split."""
    split: Split | None = None
    """Share of the training rows to hold out, 0.001 to 0.9, drawn by class with training.seed. Set this, uri
    or uris."""


class Columns(Model):
    """Which columns (of CSV) or keys (of a JSON row) hold what."""

    text: Annotated[str, Field(min_length=1, max_length=128)] = "text"
    """Column with the text to classify, or (TextGeneration) with raw text of which every token is learnt.
    Default text."""
    label: Annotated[str, Field(min_length=1, max_length=128)] = "label"
    """TextClassification: column with the class, as a word or a number. Default label."""
    messages: Annotated[str, Field(min_length=1, max_length=128)] = "messages"
    """TextGeneration: column with a conversation, a list of objects with role (system, user, assistant or
    tool), content and, for assistant, weight (0: not learnt; 1). Default messages."""
    prompt: Annotated[str, Field(min_length=1, max_length=128)] = "prompt"
    """TextGeneration: column with what the model is given. Default prompt."""
    completion: Annotated[str, Field(min_length=1, max_length=128)] = "completion"
    """TextGeneration: column with what it is to write. Default completion."""


class DatasetSpec(Model):
    """Rows to train on, to choose the best checkpoint on, and to measure on."""

    model_config = rules(
        rule(
            apart(data_uris("self.test"), data_uris("self.train")),
            "test and train name the same file, or a folder and what lies in it: a model must not be measured"
            " on what it was trained on",
            ".test",
        ),
        rule(
            apart(data_uris("self.validation"), data_uris("self.train")),
            "validation and train name the same file, or a folder and what lies in it: the best checkpoint"
            " must not be chosen on what was trained on",
            ".validation",
        ),
        rule(
            apart(data_uris("self.test"), data_uris("self.validation")),
            "test and validation name the same file, or a folder and what lies in it: a model must not be"
            " measured on what it was chosen on",
            ".test",
        ),
        rule(
            "(has(self.validation) && has(self.validation.split) ? self.validation.split : 0.0)"
            " + (has(self.test) && has(self.test.split) ? self.test.split : 0.0) < 0.95",
            "validation.split and test.split together leave fewer than 5 % of the rows to train on",
        ),
    )

    train: TrainFiles
    """The training rows."""
    validation: HeldOutFiles = HeldOutFiles(split=0.1)
    """Rows that the best checkpoint is chosen on. Default: a split of 0.1."""
    test: HeldOutFiles = HeldOutFiles(split=0.1)
    """Rows that base model and tuned model are measured on; never trained on, never chosen on. Default: a
    split of 0.1."""
    columns: Columns = Columns()
    """Which columns hold what."""
    max_bad_row_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    """Unreadable rows (no JSON, a column missing, ...) up to this share of a split are left out and
    listed in the report; more fail the job. Default 0.01."""
    storage: Storage | None = None
    """Store of the data. Default: spec.storage."""


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
    that is at most 16 (TextGeneration: of which rows of maxLength together have at most 4,096 tokens, at
    least 1). Default Auto."""
    learning_rate: Annotated[float, Field(gt=0, le=0.1)] | None = None
    """Peak learning rate, above 0, at most 0.1. Left out: 2e-4 with method LoRA; else 5e-5 for models below
    100 million parameters, 2e-5 for larger ones."""
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
    training rows, at most 512 and what the model can read (TextGeneration: the longest training row, at most
    2,048). Default Auto."""
    train_on: Literal["Completion", "All"] = "Completion"
    """TextGeneration: which tokens of a row are learnt. Completion: those of the completion, or of the
    assistant's messages. All: those of the prompt too. Default Completion."""
    precision: Literal["Auto", "Float32", "BFloat16"] = "Auto"
    """Arithmetic of forward and backward pass; weights are kept in float32. Auto: BFloat16 on GPUs that have
    it, else Float32. Default Auto."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 42
    """Seed of splits, shuffling, initial head and dropout. Default 42."""


class DeepSpeedSpec(Model):
    """DeepSpeed's own settings."""

    model_config = rules(
        rule(
            "self.offload != 'Optimizer' || type(self.zeroStage) != int || int(self.zeroStage) >= 1",
            "deepspeed.offload Optimizer needs a deepspeed.zeroStage of 1, 2, 3 or Auto",
            ".zeroStage",
        ),
        rule(
            "self.offload != 'OptimizerAndParameters' || type(self.zeroStage) != int"
            " || int(self.zeroStage) == 3",
            "deepspeed.offload OptimizerAndParameters needs a deepspeed.zeroStage of 3 or Auto: only stage 3"
            " can move parameters",
            ".zeroStage",
        ),
    )

    zero_stage: Annotated[int | Literal["Auto"], auto_or(0, 3)] = "Auto"
    """What is sharded over the processes: 0 nothing, 1 optimizer states, 2 also gradients, 3 also
    parameters. Auto: 0 on one process, else 2; with offload Optimizer 2, with OptimizerAndParameters 3.
    Default Auto."""
    offload: Literal["None", "Optimizer", "OptimizerAndParameters"] = "None"
    """What is kept in the memory of the node instead of the GPU's, at the price of speed: the optimizer's
    state (8 bytes a trained parameter), or also the parameters. Needs GPUs. Default None."""


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
    merge_adapter: bool = False
    """With method LoRA: true publishes the whole model with the adapter merged into its weights (float32),
    false the adapter alone, which needs the base model. Default false."""
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
            f"!has(self.model.uri) || !{folder('self.output.uri')}.startsWith({folder('self.model.uri')})",
            "output.uri lies in the base model's folder (model.uri), which must not be written into",
            ".output.uri",
        ),
        rule(
            f"({' + '.join(data_uris(f'self.dataset.{split}') for split in ('train', 'validation', 'test'))})"
            f".all(u, u.endsWith('/') ? !{folder('self.output.uri')}.startsWith(u)"
            f" : {folder('self.output.uri')} != {folder_of('u')})",
            "output.uri lies in a folder of dataset, or is the folder of a file of dataset: give the output"
            " a folder of its own",
            ".output.uri",
        ),
        rule(
            "!self.output.mergeAdapter || self.method.type == 'LoRA'",
            "output.mergeAdapter is true, but method.type is not LoRA: there is no adapter to merge",
            ".output.mergeAdapter",
        ),
        rule(
            "self.deepspeed.offload == 'None' || self.resources.gpusPerNode > 0",
            "deepspeed.offload moves what is in the GPUs' memory, but resources.gpusPerNode is 0: set it, or"
            " leave offload out",
            ".deepspeed.offload",
        ),
        rule(
            "self.task == 'TextGeneration' || self.training.trainOn == 'Completion'",
            "training.trainOn is for the task TextGeneration: leave it out",
            ".training.trainOn",
        ),
        *EVALUATION_RULES,
    )

    task: Task
    """What the model learns. TextClassification: one of several classes for each text. TextGeneration: to
    write: the answers of conversations, completions of prompts, or text like the given."""
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
    """The S3 store of model, data and output, where they name none of their own. Default: the store of the
    profile."""
    ttl: TtlSpec = TtlSpec()
    """What is removed after the end."""
    suspend: bool = False
    """True stops the run's pods and keeps its results; false goes on with the stage it was in. Default
    false."""
