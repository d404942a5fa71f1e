"""The spec of a FineTuneJob."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_operator.api.changes import Change, Covered
from finetune_operator.api.endpoint import Endpoint
from finetune_operator.api.evaluation import EVALUATION_RULES, EvaluationSpec
from finetune_operator.api.fields import (
    DURATION,
    DataUri,
    DataUris,
    FolderUri,
    Key,
    ModelUri,
    Name,
    Quantity,
    ServedName,
    Split,
    apart,
    auto_or,
    data_uris,
    duration,
    folder,
    folder_of,
    rule,
    rules,
)
from finetune_operator.api.method import MethodSpec
from finetune_operator.names import NotificationEvent
from finetune_trainer.contract import MAX_IN_PLACE_RESTARTS, Model, Task


class SecretRef(Model):
    """Credentials of an S3 store, in a Secret of the job's own namespace."""

    name: Name
    """Name of the Secret. Whoever applies the job must be allowed to `get` it."""
    access_key_key: Key = "accessKey"
    """Key of the Secret that holds the access key. Default accessKey."""
    secret_key_key: Key = "secretKey"  # noqa: S105 - the name of a key
    """Key of the Secret that holds the secret key. Default secretKey."""
    session_token_key: Key = "sessionToken"  # noqa: S105 - the name of a key
    """Key of the Secret that holds the session token of temporary keys (STS). The Secret may lack this key.
    Default sessionToken."""


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
    """Name of a store in the operator's settings. The settings hold the endpoint, the region and the
    certificate authority of the store. Set exactly one of store and endpoint."""
    endpoint: Endpoint | None = None
    """URL of another store with scheme and no path, for example https://minio.storage.svc:9000. The
    operator's settings may refuse endpoints of jobs, and refuse plain http unless they allow it. Set
    exactly one of store and endpoint."""
    region: Region | None = None
    """Region that requests to the endpoint are signed for. Default us-east-1, as in MinIO."""
    secret_ref: SecretRef | None = None
    """Secret with the keys. Required with endpoint. With store, the default is the Secret that the
    operator's settings name for the store."""
    ca_bundle_ref: CaBundleRef | None = None
    """Certificate authority of the endpoint, added to those of the system. Default: those of the system."""


class FromJob(Model):
    """Another FineTuneJob in the namespace of this job."""

    name: Name
    """Name of the FineTuneJob. This job waits until that FineTuneJob has succeeded. The first attempt fixes
    the published model: later changes of that FineTuneJob do not matter."""


class ModelSpec(Model):
    """The base model: a folder in S3, or the model that another FineTuneJob has published."""

    model_config = rules(rule("has(self.uri) != has(self.fromJob)", "set exactly one of uri and fromJob"))

    uri: ModelUri | None = None
    """Folder in S3 that holds config.json, tokenizer.json and *.safetensors, for example s3://models/minilm.
    Prepare refuses pickled weights and remote code. Set exactly one of uri and fromJob."""
    from_job: FromJob | None = None
    """The FineTuneJob whose published model is the base model. Set exactly one of uri and fromJob."""
    storage: Storage | None = None
    """Store that holds the base model, also where another FineTuneJob has published the model. Default:
    spec.storage."""


class TrainFiles(Model):
    """The rows to train on."""

    model_config = rules(rule("has(self.uri) != has(self.uris)", "set exactly one of uri and uris"))

    uri: DataUri | None = None
    """A file or a folder in S3. A file is JSON Lines (.jsonl), CSV (.csv) or Parquet (.parquet); .gz and .zst
    files are unpacked. The URI of a folder ends in a slash: the job reads all such files below the folder in
    the order of their keys, without names that start with an underscore or a dot. Set exactly one of uri and
    uris."""
    uris: DataUris | None = None
    """1 to 64 files and folders in S3, read in this order. The formats may differ. Set exactly one of uri and
    uris."""


class HeldOutFiles(Model):
    """Rows that are not trained on: files of their own, or a share of the training rows."""

    model_config = rules(
        rule(
            "[has(self.uri), has(self.uris), has(self.split)].exists_one(set, set)",
            "set exactly one of uri, uris and split",
        )
    )

    uri: DataUri | None = None
    """A file or a folder in S3, as in train.uri. Set exactly one of uri, uris and split."""
    uris: DataUris | None = None
    """1 to 64 files and folders in S3, as in train.uris. Set exactly one of uri, uris and split."""
    split: Split | None = None
    """Share of the training rows to hold out, from 0.001 to 0.9. The rows are drawn by class with
    training.seed. Set exactly one of uri, uris and split."""


Column = Annotated[str, Field(min_length=1, max_length=128)]


class Columns(Model):
    """Names of the columns (keys of a JSON row) to read. A task reads only its own columns."""

    text: Column | None = None
    """Column that holds the text. TextClassification classifies this text; TextGeneration learns every token
    of this text. Default for both tasks: text."""
    label: Column | None = None
    """Column that holds the class, a word or a number. Used by TextClassification. Default: label."""
    messages: Column | None = None
    """Column that holds a conversation: a list of objects with role (system, user, assistant or tool),
    content and, for the role assistant, weight (0: this message is not learnt; 1: this message is learnt).
    Used by TextGeneration. Default: messages."""
    prompt: Column | None = None
    """Column that holds the text that the model is given. Used by TextGeneration. Default: prompt."""
    completion: Column | None = None
    """Column that holds the text that the model learns to write after the prompt. Used by TextGeneration.
    Default: completion."""


class DatasetSpec(Model):
    """Rows to train on, rows to choose the best checkpoint on, and rows to measure the models on."""

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
    """The rows to train on."""
    validation: HeldOutFiles = HeldOutFiles(split=0.1)
    """The rows to choose the best checkpoint on. Default: a split of 0.1."""
    test: HeldOutFiles = HeldOutFiles(split=0.1)
    """The rows to measure the base model and the tuned model on. The job neither trains nor chooses a
    checkpoint on these rows. Default: a split of 0.1."""
    columns: Annotated[Columns | None, Covered.BY_THE_RUN] = None
    """Names of the columns to read. Default: see each column."""
    max_bad_row_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    """Largest share of unreadable rows (no JSON, a missing column, and the like) in each of train, validation
    and test, from 0 to 0.5. Up to this share, the job leaves the rows out and lists them in the report; above
    this share, the job fails. Default: 0.01."""
    storage: Storage | None = None
    """Store that holds the rows. Default: spec.storage."""


class TrainingSpec(Model):
    """Hyper-parameters of the training. The values that Prepare has chosen for Auto are in status.chosen."""

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
    """Number of passes over the training rows, from 1 to 1000, or Auto. Auto is 12,000 / training rows,
    rounded up, at least 2 and at most 10. Default: Auto."""
    batch_size: Annotated[int | Literal["Auto"], auto_or(1, 1048576)] = "Auto"
    """Rows in each optimizer step over all processes, from 1 to 1048576, or Auto. At least one row for each
    process; if microBatchSize is a number, a multiple of microBatchSize x number of processes. Auto is the
    multiple of the number of processes (x microBatchSize) that is nearest to 32. Default: Auto."""
    micro_batch_size: Annotated[int | Literal["Auto"], auto_or(1, 65536)] = "Auto"
    """Rows in each forward pass of one process, from 1 to 65536, or Auto. With Auto, a forward pass has as
    many rows as a budget of tokens holds, padding included: 16 x maxLength for TextClassification, 4,096 for
    TextGeneration, but at least maxLength. Default: Auto."""
    learning_rate: Annotated[float, Field(gt=0, le=0.1)] | None = None
    """Peak learning rate, above 0 and at most 0.1. Default: 2e-4 with method LoRA; with the other methods
    5e-5 for models of less than 100 million parameters and 2e-5 for larger models."""
    weight_decay: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    """Weight decay of AdamW, from 0 to 0.5. Biases and norms have no weight decay. Default: 0.01."""
    warmup_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """Share of the optimizer steps in which the learning rate rises from 0 to its peak, from 0 to 0.9.
    Default: 0.1."""
    schedule: Literal["Linear", "Cosine", "Constant"] = "Linear"
    """Course of the learning rate after warm-up. Linear falls to 0 in a straight line, Cosine falls to 0
    along a cosine, Constant stays at the peak. Default: Linear."""
    max_gradient_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Largest L2 norm of the gradients, above 0 and at most 1000. Larger gradients are scaled down. Default:
    1."""
    max_length: Annotated[int | Literal["Auto"], auto_or(8, 131072)] = "Auto"
    """Largest number of tokens of a row, from 8 to 131072, or Auto. The job cuts longer rows and counts the
    lost tokens in the report. Auto is the 99th percentile of the training rows, at most 512, for
    TextClassification; the longest training row, at most 2,048, for TextGeneration; in both cases at most the
    maximum of the model. Default: Auto."""
    train_on: Annotated[Literal["Completion", "All"] | None, Covered.BY_THE_RUN] = None
    """Tokens that TextGeneration learns. Completion: the tokens of the completion, or of the messages with
    the role assistant. All: the tokens of the prompt too. Used by TextGeneration. Default: Completion."""
    head_init: Annotated[Literal["Auto", "Random", "LinearProbe"] | None, Covered.BY_THE_RUN] = None
    """Start of a new classification head. Random: random weights. LinearProbe: a logistic regression on the
    outputs of the frozen base model for at most 20,000 training rows; the validation rows choose the penalty.
    Auto is LinearProbe. Used by TextClassification. Default: Auto."""
    class_weights: Annotated[Literal["None", "Balanced", "SquareRoot"] | None, Covered.BY_THE_RUN] = None
    """Weight of each class in the loss. None: 1. Balanced: n / (k x n_c) for n training rows, k classes and
    n_c rows of the class, so that all classes have the same share in the loss. SquareRoot: the square root
    of Balanced, scaled to a mean of 1 over the training rows. Used by TextClassification. Default: None."""
    activation_checkpointing: Annotated[Literal["Auto", "Enabled", "Disabled"] | None, Covered.BY_THE_RUN] = (
        None
    )
    """Activation checkpointing: the trainer keeps only the inputs of each layer for the backward pass, and
    computes the activations within the layer again. A step needs less memory and about a third more time.
    Auto is Enabled for models of at least 1 billion parameters that support activation checkpointing, and
    for smaller models that fit in the memory only with activation checkpointing. Default: Auto."""
    precision: Literal["Auto", "Float32", "BFloat16"] = "Auto"
    """Arithmetic of the forward and the backward pass. With BFloat16, the weights of a bfloat16 model stay in
    bfloat16 from ZeRO stage 1, and the optimizer has a float32 copy of the trained weights; all other weights
    are float32. Auto is BFloat16 on GPUs that support BFloat16, else Float32. Default: Auto."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 42
    """Seed of the splits, of the shuffling, of the initial head and of dropout, from 0 to 2147483647.
    Default: 42."""


class DeepSpeedSpec(Model):
    """Settings of DeepSpeed."""

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
    """ZeRO stage: the state that is sharded over the processes. 0: nothing; 1: optimizer states; 2: also
    gradients; 3: also parameters. Auto is 0 for one process and 2 for more; with offload Optimizer, Auto is
    2; with offload OptimizerAndParameters, Auto is 3. If the profile names the memory of its GPUs, Auto is a
    higher stage where the job needs the stage to fit. Default: Auto."""
    offload: Literal["Auto", "None", "Optimizer", "OptimizerAndParameters"] = "None"
    """State that is kept in the memory of the node instead of the memory of the GPUs, at the cost of speed.
    Optimizer: the optimizer states (12 bytes for each trained parameter). OptimizerAndParameters: also the
    parameters. Optimizer and OptimizerAndParameters need resources.gpusPerNode. Auto is None, and another
    value only if the profile names the memory of its GPUs and the job does not fit otherwise. Default:
    None."""


class ResourcesSpec(Model):
    """Resources of the cluster that the run requests."""

    model_config = rules(
        rule(
            "self.gpusPerNode == 0 || !has(self.processesPerNode)"
            " || self.processesPerNode == self.gpusPerNode",
            "processesPerNode must equal gpusPerNode: one process drives one GPU; leave it out",
            ".processesPerNode",
        ),
        rule(
            "!has(self.minNodes) || self.minNodes <= self.nodes",
            "resources.minNodes must be at most resources.nodes",
            ".minNodes",
        ),
    )

    profile: Name = "default"
    """Name of a profile in the settings of the operator. The profile sets images, node selectors, tolerations
    and default resources. Default: default."""
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Number of Train pods, from 1 to 1024. Each pod has a node of its own. Default: 1."""
    min_nodes: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Smallest number of Train pods of an attempt, from 1 to nodes. If no node takes some of the pods for
    failurePolicy.shrinkAfter, the next attempt has only as many pods as found a node, and at least minNodes.
    The global batch stays the same, and training resumes from the newest checkpoint. Each Train pod has the
    memory that it needs with minNodes pods. Default: nodes, so every attempt has all pods."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 0
    """Number of GPUs of each Train pod, from 0 to 64. 0 trains on CPUs. Default: 0."""
    processes_per_node: Annotated[int, Field(ge=1, le=256)] | None = None
    """Number of training processes in each Train pod, from 1 to 256. With GPUs, the number equals
    gpusPerNode. Default: gpusPerNode, or 1 on CPUs."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm in each Train pod, in bytes as a Kubernetes quantity, for example 8Gi. Default: the
    size in the profile."""
    memory: Quantity | None = None
    """Memory request and limit of each Train pod, in bytes as a Kubernetes quantity, for example 64Gi.
    Default: the memory in the profile, or the estimated memory if that is more."""
    cpu: Quantity | None = None
    """CPU request and limit of each Train pod, in CPUs as a Kubernetes quantity, for example 8 or 500m.
    Default: the CPUs in the profile."""


class OutputSpec(Model):
    """Place of the tuned model."""

    uri: FolderUri
    """Folder in S3 below which the job publishes the model as <namespace>/<name>/<suffix>/. The model is
    complete as soon as its manifest.json exists, which is written last."""
    suffix: (
        Annotated[
            str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$")
        ]
        | None
    ) = None
    """Last folder of the published model, 1 to 64 characters, for example v2. Default: the first 8 characters
    of the uid of the FineTuneJob."""
    merge_adapter: Annotated[bool | None, Covered.BY_THE_RUN] = None
    """Whether the job merges the adapter into the weights and publishes the whole model. If false, the job
    publishes the adapter alone, which needs the base model. Used by method LoRA. Default: false."""
    served_base_name: Annotated[ServedName | None, Covered.BY_THE_RUN] = None
    """Name under which a server serves the base model, 1 to 255 characters, for example Llama-3.1-8B. The job
    writes this name as base_model_name_or_path to adapter_config.json of a published adapter: vLLM loads an
    adapter from a folder of adapters only if the name is the name of the served base model. Used by method
    LoRA without mergeAdapter. Default: the last part of the path of the base model."""
    storage: Storage | None = None
    """Store that holds the published model and all other files of the run. Default: spec.storage."""


class CheckpointsSpec(Model):
    """Checkpoints of Train, from which the next attempt of Train resumes."""

    every_minutes: Annotated[int | Literal["Auto"], auto_or(1, 1440)] = "Auto"
    """Time between two checkpoints, in minutes, from 1 to 1440, or Auto. After a failure, the next attempt
    repeats the steps since the newest complete checkpoint. With Auto, Train selects 1 to 60 minutes: the
    interval grows with the time for which a checkpoint pauses training, and shrinks with the number of nodes.
    Default: Auto."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Number of the newest checkpoints that stay in the store, from 1 to 100. The checkpoints with the best
    weights stay in addition: the best so far, and the best at the time of the oldest of the newest
    checkpoints. Default: 2."""


class FailurePolicySpec(Model):
    """Reaction to failed attempts, and limits of the job."""

    max_restarts: Annotated[int, Field(ge=0, le=20)] | None = None
    """Number of failed attempts without progress after which each stage gets another attempt, from 0 to 20.
    An attempt makes progress when it reaches a later optimizer step than every earlier attempt. Preempted
    attempts do not count. Default: maxRestarts in the settings of the operator, which is 3."""
    shrink_after: Annotated[str, duration("1m", "24h")] = "10m"
    """Time for which pods of an attempt of Train may find no node before the next attempt has fewer pods, in
    seconds, minutes or hours, from 1m to 24h, for example 90s, 10m or 2h. Time in a queue does not count.
    Used with resources.minNodes. Default: 10m."""
    in_place_restarts: Annotated[int, Field(ge=0, le=MAX_IN_PLACE_RESTARTS)] = 3
    """Number of restarts in place of each attempt of Train, from 0 to 20. After the failure of a process
    whose pod can go on, the processes of all pods of the attempt start again in the same pods, from the
    newest checkpoint. If that is not possible, the attempt fails and the next attempt gets new pods. 0: each
    failure ends the attempt. A change takes effect with the next attempt of Train. Default: 3."""
    on_divergence: Literal["Fail", "RollBack"] = "Fail"
    """Reaction to a loss or gradient that is not finite. Fail: the job fails. RollBack: the next attempt of
    Train resumes from the newest checkpoint and skips the optimizer step, whose rows then change no weights;
    if a loss or gradient is not finite again, the job fails. Default: Fail."""
    on_train_failure: Literal["Fail", "Finish"] = "Fail"
    """Reaction to a training that cannot go on: Train has failed and gets no further attempt, or the job has
    reached activeDeadline or maxGpuHours. Fail: the job fails. Finish: the next attempt of Train makes no
    further steps and measures the best weights so far, which the job then publishes, as with finishTraining.
    activeDeadline and maxGpuHours do not end that attempt. If no checkpoint is known, the job fails. Default:
    Fail."""
    hang_timeout: Annotated[str, duration("1m", "24h")] | None = None
    """Time without a heartbeat after which a process counts as hanging, in seconds, minutes or hours, from 1m
    to 24h, for example 20m. The pod of the process then ends all its processes, and the attempt fails with
    the class Hang. Choose a longer time than the longest optimizer step takes. A change takes effect with the
    next attempt. Default: deadlines.hang in the settings of the operator, which is 10 minutes."""
    active_deadline: Annotated[str, duration("1m", "8760h")] | None = None
    """Longest time for which the pods of the job may run, all attempts together, in seconds, minutes or
    hours, from 1m to 8760h, for example 72h. Only time in which all pods of an attempt run counts: queues,
    waiting for nodes and suspension do not count. After that time, the pods save a checkpoint and end, and
    the job fails with the reason ActiveDeadlineExceeded, unless onTrainFailure is Finish. The limit does not
    end Publish: a trained model is published. Default: no limit."""
    max_gpu_hours: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Maximum number of GPU hours of the job, from 1 to 1000000: the sum over all attempts of Train of the
    time for which their pods hold GPUs, in hours x GPUs. When the job has used that time, the pods save a
    checkpoint and end, and the job fails with the reason GpuBudgetExhausted, unless onTrainFailure is Finish.
    Default: no limit."""


class TtlSpec(Model):
    """Time to live of pods and of the FineTuneJob after the job has finished."""

    pods_after_finished: Annotated[str, Field(max_length=8, pattern=DURATION)] = "10m"
    """Time after which finished pods and their logs are deleted, in seconds, minutes or hours, for example
    90s, 10m or 720h. Default: 10m."""
    after_finished: Annotated[str, Field(max_length=8, pattern=DURATION)] | None = None
    """Time after which the FineTuneJob is deleted, in seconds, minutes or hours, for example 720h. The
    published model stays. Leave afterFinished out where Argo CD or Flux applies the job: GitOps creates a
    deleted job again, and the new job trains again, or fails with OutputExists where output.suffix is set.
    Default: the FineTuneJob is never deleted."""


class NotificationSpec(Model):
    """A receiver of notifications about the job."""

    target: Name
    """Name of a notification target in the operator's settings. The settings hold the URL and the signing
    key."""
    events: (
        Annotated[
            list[NotificationEvent],
            Field(min_length=1, max_length=6, json_schema_extra={"x-kubernetes-list-type": "set"}),
        ]
        | None
    ) = None
    """Events to report: Started, AttemptFailed, GatePassed, Succeeded, Failed and GateFailed. A job ends with
    exactly one of Succeeded, Failed and GateFailed. The settings of the target may exclude events. Default:
    all events."""


class FineTuneJobSpec(Model):
    """Specification of the job. Training starts when the first Train pod runs (status.trainingStartTime)."""

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
            "!has(self.output.mergeAdapter) || !self.output.mergeAdapter || self.method.type == 'LoRA'",
            "output.mergeAdapter is true, but method.type is not LoRA: there is no adapter to merge",
            ".output.mergeAdapter",
        ),
        rule(
            "!has(self.output.servedBaseName) || self.method.type == 'LoRA'"
            " && !(has(self.output.mergeAdapter) && self.output.mergeAdapter)",
            "output.servedBaseName is set, but the job publishes a whole model: leave servedBaseName out, or"
            " publish an adapter (method.type LoRA without output.mergeAdapter)",
            ".output.servedBaseName",
        ),
        rule(
            "self.deepspeed.offload in ['Auto', 'None'] || self.resources.gpusPerNode > 0",
            "deepspeed.offload moves what is in the GPUs' memory, but resources.gpusPerNode is 0: set it, or"
            " leave offload out",
            ".deepspeed.offload",
        ),
        rule(
            "self.task == 'TextGeneration' || !has(self.training.trainOn)"
            " || self.training.trainOn == 'Completion'",
            "training.trainOn is for the task TextGeneration: leave it out",
            ".training.trainOn",
        ),
        rule(
            "self.task == 'TextGeneration' || !has(self.method.lora) || !has(self.method.lora.addedTokens)",
            "method.lora.addedTokens is for the task TextGeneration: leave it out",
            ".method.lora.addedTokens",
        ),
        rule(
            "self.task == 'TextClassification' || !has(self.training.headInit)"
            " || self.training.headInit == 'Auto'",
            "training.headInit is for the task TextClassification: leave it out",
            ".training.headInit",
        ),
        rule(
            "self.task == 'TextClassification' || !has(self.training.classWeights)"
            " || self.training.classWeights == 'None'",
            "training.classWeights is for the task TextClassification: leave it out",
            ".training.classWeights",
        ),
        *EVALUATION_RULES,
    )

    task: Annotated[Task, Change.UNTIL_TRAINING]
    """The task that the model learns. TextClassification: assign one of several classes to each text.
    TextGeneration: write text, namely the answers of conversations, the completions of prompts, or text like
    the given text."""
    model: Annotated[ModelSpec, Change.UNTIL_TRAINING]
    """The base model."""
    dataset: Annotated[DatasetSpec, Change.UNTIL_TRAINING]
    """Rows to train on, rows to choose the best checkpoint on, and rows to measure the models on."""
    method: Annotated[MethodSpec, Change.UNTIL_TRAINING] = MethodSpec()
    """The part of the model that is trained. Default: the method Full."""
    training: Annotated[TrainingSpec, Change.UNTIL_TRAINING] = TrainingSpec()
    """Hyper-parameters of the training. Default: see each field."""
    deepspeed: Annotated[DeepSpeedSpec, Change.UNTIL_TRAINING] = DeepSpeedSpec()
    """Settings of DeepSpeed. Default: see each field."""
    resources: Annotated[ResourcesSpec, Change.UNTIL_TRAINING] = ResourcesSpec()
    """Resources of the cluster that the run requests. Default: see each field."""
    evaluation: Annotated[EvaluationSpec, Change.UNTIL_TRAINING] = EvaluationSpec()
    """Metrics to measure, and the gate that the tuned model must pass. Default: see each field."""
    output: Annotated[OutputSpec, Change.UNTIL_TRAINING]
    """Place of the tuned model."""
    storage: Annotated[Storage | None, Change.UNTIL_TRAINING] = None
    """S3 store of model, dataset and output, unless these name a store of their own. Default: the store of
    the profile."""
    checkpoints: Annotated[CheckpointsSpec, Change.ALWAYS] = CheckpointsSpec()
    """Checkpoints of Train, from which the next attempt of Train resumes. A change takes effect with the next
    attempt of Train. Default: see each field."""
    failure_policy: Annotated[FailurePolicySpec, Change.ALWAYS] = FailurePolicySpec()
    """Reaction to failed attempts, and limits of the job. Default: see each field."""
    finish_training: Annotated[bool, Change.ALWAYS] = False
    """Whether Train ends before its last step. If true, Train saves a checkpoint and ends; the job then
    measures and publishes the best weights so far, which are those with the best score on the validation
    rows. If no checkpoint exists yet, Train goes on until its first checkpoint. Default: false."""
    ttl: Annotated[TtlSpec, Change.ALWAYS] = TtlSpec()
    """Time to live of pods and of the FineTuneJob after the job has finished. Default: see each field."""
    notifications: Annotated[
        list[NotificationSpec] | None,
        Field(
            max_length=8,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["target"]},
        ),
        Change.ALWAYS,
    ] = None
    """Receivers of notifications about the job, at most 8. Default: only the targets that the operator's
    settings notify of all jobs of the namespace."""
    suspend: Annotated[bool, Change.ALWAYS] = False
    """Whether the job is suspended. If true, the operator stops the pods of the run and keeps the results. If
    false, the job continues with the current stage. Default: false."""
