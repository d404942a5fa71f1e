"""Payloads: the part of a termination message that holds the result of a stage."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from finetune_trainer.contract.base import Digest, Model, Reason, Uri
from finetune_trainer.contract.evaluation import Evaluation

WeightsDtype = Literal["float32", "float16", "bfloat16"]
"""Data type of the weights of a model, in the names of PyTorch."""
Offload = Literal["None", "Optimizer", "OptimizerAndParameters"]
"""State that DeepSpeed keeps in the memory of the host instead of the memory of the GPU."""


class RowCounts(Model):
    """Numbers of rows after Prepare has checked and split the data."""

    train: NonNegativeInt
    """Training rows."""
    validation: NonNegativeInt
    """Validation rows, which select the best checkpoint."""
    test: NonNegativeInt
    """Test rows, on which the models are measured."""
    dropped: NonNegativeInt
    """Rows left out: unreadable, empty, or also present in the test rows."""


class Account(Model):
    """The account of the data files: `read` is the sum of all rows that are used and of `leftOut`."""

    read: NonNegativeInt
    """Rows of all data files, including rows that cannot be used."""
    left_out: Annotated[dict[Reason, NonNegativeInt], Field(max_length=6)] = {}
    """Rows that are left out, by the code of the finding about these rows, such as BadRows or Overlap."""
    repeated: NonNegativeInt = 0
    """Rows that repeat an earlier row. Repeated rows are used."""
    columns: NonNegativeInt = 0
    """Columns of all data files."""
    columns_used: NonNegativeInt = 0
    """Columns that the task reads."""
    classes: NonNegativeInt = 0
    """Classes of all rows that can be used; 0 for a task without classes."""
    classes_learnt: NonNegativeInt = 0
    """Classes that occur in the training rows."""


class Findings(Model):
    """Numbers of findings in the data report."""

    errors: NonNegativeInt = 0
    """Findings because of which rows were left out."""
    warnings: NonNegativeInt = 0
    """Findings that left no row out."""


class Chosen(Model):
    """The hyperparameters that Prepare selected for `Auto`, and the values that follow from them."""

    epochs: PositiveInt
    """Passes over the training rows."""
    batch_size: PositiveInt
    """Rows per optimizer step over all processes."""
    micro_batch_size: PositiveInt | None = None
    """Rows per forward pass of one process; absent if microBatchTokens is set."""
    accumulation_steps: PositiveInt | None = None
    """Gradient accumulation: micro-batches of one process per optimizer step; absent if microBatchTokens is
    set, because each step then has as many micro-batches as its rows need."""
    micro_batch_tokens: PositiveInt | None = None
    """Maximum tokens per forward pass of one process, padding included; absent if microBatchSize is set."""
    world_size: PositiveInt
    """Number of processes of the gang."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    """Peak learning rate."""
    max_length: PositiveInt
    """Maximum tokens of a row; longer rows are truncated."""
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    """DeepSpeed ZeRO stage."""
    total_steps: PositiveInt
    """Optimizer steps of the whole run."""
    model_dtype: WeightsDtype = "float32"
    """Data type of the weights of the base model and of the published model."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes the activations of each layer again."""
    offload: Offload = "None"
    """State that DeepSpeed keeps in the memory of the host instead of the memory of the GPU."""
    gathered_parameters: PositiveInt = 1_000_000_000
    """ZeRO stage 3: maximum number of parameters that a process gathers from the other processes."""

    @model_validator(mode="after")
    def _check_micro_batch(self) -> Self:
        if (self.micro_batch_size is None) == (self.micro_batch_tokens is None):
            raise ValueError("either micro_batch_size or micro_batch_tokens is required")
        return self


class MemoryEstimate(Model):
    """Estimated peak memory, and the estimated size of files, in bytes."""

    process: NonNegativeInt
    """Memory of one process: memory of a GPU, or memory of the host on CPUs."""
    train: NonNegativeInt
    """Host memory of a Train pod."""
    publish: NonNegativeInt
    """Host memory of the Publish pod."""
    scratch: NonNegativeInt | None = None
    """Greatest size of the files in one volume of a Train or Publish pod."""


class PreparePayload(Model):
    """The result of Prepare."""

    kind: Literal["Prepare"] = "Prepare"
    data_digest: Digest
    model_digest: Digest
    prepared: Uri
    """Folder of the tokenised shards in S3."""
    rows: RowCounts
    labels: NonNegativeInt
    """Number of classes."""
    tokens: NonNegativeInt
    """Tokens of the training rows in one epoch."""
    truncated_tokens: NonNegativeInt
    """Tokens of the training rows that truncation to maxLength removed."""
    parameters: PositiveInt
    """Parameters of the base model."""
    chosen: Chosen
    findings: Findings
    report: Uri
    """URI of the data report (JSON)."""
    account: Account | None = None
    """None from a trainer of an earlier release."""
    memory: MemoryEstimate | None = None
    """None if the model could not be measured, and from a trainer of an earlier release."""


class Best(Model):
    """The best checkpoint by the primary metric on the validation rows."""

    step: NonNegativeInt
    metric: FiniteFloat


class TrainPayload(Model):
    """The result of Train."""

    kind: Literal["Train"] = "Train"
    best: Best
    evaluation: Evaluation
    staging: Uri
    """Staging folder: the folder of the tuned model in S3 before verification."""
    peak_memory_bytes: NonNegativeInt
    gpu_seconds: NonNegativeInt
    """Duration of the training processes in seconds x number of GPUs; 0 on CPUs."""


class PublishPayload(Model):
    """The result of Publish."""

    kind: Literal["Publish"] = "Publish"
    uri: Uri
    digest: Digest
    """SHA-256 of the manifest, which has the digest of every file."""
    size_bytes: NonNegativeInt
    report: Uri


class CleanupPayload(Model):
    """The result of Cleanup: numbers of deleted objects."""

    kind: Literal["Cleanup"] = "Cleanup"
    objects: NonNegativeInt
    uploads: NonNegativeInt
    """Aborted multipart uploads."""
    versions: NonNegativeInt = 0
    """Deleted older versions and delete markers, in a bucket with versions."""
    versions_left: NonNegativeInt = 0
    """Older versions and delete markers that remain because the keys may not delete them; a lower bound."""


Payload = Annotated[
    PreparePayload | TrainPayload | PublishPayload | CleanupPayload, Field(discriminator="kind")
]
