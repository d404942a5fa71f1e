"""Payloads: the results of the stages."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
)

from finetune_trainer.contract.base import Digest, Model, Uri
from finetune_trainer.contract.evaluation import Evaluation


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
