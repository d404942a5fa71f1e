"""The manifest of a checkpoint, and the digest of everything that a resumed run must have in common."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt

from finetune_trainer.config import Run, World, digest_of
from finetune_trainer.contract import Chosen, Digest, Model

MANIFEST = "manifest.json"

CheckpointName = Annotated[str, Field(pattern=r"^[0-9]{8}-[0-9]+-[0-9a-zA-Z-]+$")]
"""Name of the folder of a checkpoint: `<step, 8 digits>-<attempt>-<writer>`, see `s3.results.writer`."""


class UnusableCheckpointError(Exception):
    """A checkpoint cannot be read completely; the text gives the cause."""


class ShardFile(Model):
    """The file of one rank, a safetensors file."""

    path: Annotated[str, Field(pattern=r"^[0-9]{5}\.safetensors$")]
    header_bytes: PositiveInt
    """Size of the header of safetensors, with the 8 bytes of its length."""
    data_bytes: NonNegativeInt
    digests: Annotated[tuple[Digest, ...], Field(min_length=1)]
    """SHA-256 of the header, then of each block of the data, so that a part of the file can be verified."""

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.header_bytes + self.data_bytes


class CheckpointManifest(Model):
    """The manifest of a checkpoint, which is written last. A folder without a manifest is no checkpoint."""

    format: Literal[1] = 1
    step: PositiveInt
    """Completed optimizer steps."""
    samples: NonNegativeInt
    """Samples that all ranks together have trained on."""
    world: PositiveInt
    """World size of the gang that saved the checkpoint."""
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    """ZeRO stage of the gang that saved the checkpoint."""
    attempt: PositiveInt
    config: Digest
    """Config digest of the run."""
    identity: Digest
    """See `Identity`."""
    created: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    """Versions of Python and of the libraries."""
    best: CheckpointName | None
    """The checkpoint with the best weights so far; None before the first evaluation."""
    block_bytes: PositiveInt
    """Bytes of a block of data; the last block of a file may have fewer."""
    shards: Annotated[tuple[ShardFile, ...], Field(min_length=1)]
    """One file for each rank, in the order of ranks."""
    loop: JsonValue
    """State of the training loop: best metric, history of evaluations, training curve."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(shard.size for shard in self.shards)

    def encode(self) -> bytes:
        """Encodes the manifest as JSON, whose SHA-256 identifies the checkpoint."""
        return self.model_dump_json(by_alias=True).encode() + b"\n"


class Identity(Model):
    """Everything on which the result of training depends.

    World size, ZeRO stage and micro-batch are left out: they change how a step is computed, not its result.
    """

    run: Run
    chosen: Chosen
    data: Digest
    base_model: Digest


def identity_of(run: Run, chosen: Chosen, data: Digest, base_model: Digest) -> Digest:
    """The digest of an `Identity`. A run resumes only from checkpoints with the same digest.

    Args:
        run: the run.
        chosen: the hyperparameters that Prepare selected.
        data: data digest of the tokenised rows.
        base_model: digest of the base model.
    """
    training = run.training.model_copy(
        update={"micro_batch_size": "Auto", "activation_checkpointing": "Auto"}
    )
    same = {"world": World(), "zero_stage": "Auto", "offload": "None", "training": training}
    how = {
        "micro_batch_size": 1,
        "micro_batch_tokens": None,
        "accumulation_steps": None,
        "world_size": 1,
        "zero_stage": 0,
        "activation_checkpointing": False,
        "offload": "None",
        "gathered_parameters": 1,
    }
    return digest_of(
        Identity(
            run=run.model_copy(update=same),
            chosen=chosen.model_copy(update=how),
            data=data,
            base_model=base_model,
        )
    )
