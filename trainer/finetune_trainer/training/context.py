"""The context of a training run on one rank: process group, store, rows and base model."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from transformers import set_seed

from finetune_trainer.config import ComputeType, TrainConfig, Training
from finetune_trainer.contract import Activity, Chosen, Digest, FailureClass
from finetune_trainer.data.added_tokens import extend_tokenizer
from finetune_trainer.data.batches import MicroBatchSize
from finetune_trainer.data.shards import Prepared, Split, load_prepared
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat, beat_on_bytes
from finetune_trainer.models import base_model, methods
from finetune_trainer.models.dtypes import Dtypes, select_dtypes
from finetune_trainer.models.packing import Packing
from finetune_trainer.models.padding import choose_pad_token
from finetune_trainer.models.quantized_layers import quantize_if_requested
from finetune_trainer.models.vocabulary import add_rows
from finetune_trainer.models.weights import overwrite, torch_dtype
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store, open_store
from finetune_trainer.tasks.base import EvaluationInputs, HeadStart, Numbers, Tensors, TrainingTask
from finetune_trainer.training.distributed import Gang, join_gang, wait_for_all
from finetune_trainer.training.freed_models import free_models


@dataclass(frozen=True)
class Context:
    """A training run on one rank. Immutable."""

    config: TrainConfig
    chosen: Chosen
    paths: Paths
    heartbeat: Heartbeat
    gang: Gang
    store: Store
    prepared: Prepared
    data_digest: Digest
    base: Path
    """Folder with the files of the base model, and with the tokenizer of the run."""
    base_digest: Digest
    pad_id: int
    dtypes: Dtypes
    task: TrainingTask
    packing: Packing | None = None
    """When rows are packed, see Baseline.packing; None: never."""
    new_ids: range = range(0)
    """Ids of the tokens that the run adds to the vocabulary of the base model."""
    head: HeadStart | None = None
    """The weights from which a new head starts; None: those of TaskModel.load."""

    @property
    def inputs(self) -> EvaluationInputs:
        """The values that the task needs to measure a model."""
        run = self.config.run
        return EvaluationInputs(
            self.prepared, self.base, self.weights_dtype, self.pad_id, run.evaluation, run.training.seed
        )

    def collate(self, split: Split, numbers: Numbers) -> Tensors:
        """Makes the inputs of the model from rows, see TaskModel.collate."""
        return self.task.model.collate(split, numbers, self.pad_id, self.packing)

    def with_packing(self, packing: Packing | None) -> Self:
        """A copy of the context with this packing."""
        return replace(self, packing=packing)

    def with_head(self, head: HeadStart | None) -> Self:
        """A copy of the context with this start of the head."""
        return replace(self, head=head)

    @property
    def weights_dtype(self) -> torch.dtype:
        """Data type of the parameters of the model in memory."""
        return torch_dtype(self.dtypes.weights)

    @property
    def published_dtype(self) -> torch.dtype:
        """Data type of the published weights."""
        return torch_dtype(self.dtypes.published)

    def load_model(self) -> torch.nn.Module:
        """Loads the base model and applies the training method; equal on every rank.

        Raises:
            StageFailure: class UserConfig, the files do not make a model for the task.
        """
        free_models(self.gang.device)
        run = self.config.run
        set_seed(run.training.seed)
        model = self.task.model.load(self.base, self.prepared, self.weights_dtype)
        add_rows(model, self.new_ids)
        if self.head:
            overwrite(model, self.head.weights)
        return methods.apply_method(run.method, model, self.task.model.head(model), run.training.seed)

    def load_for_baseline(self) -> torch.nn.Module:
        """Loads the model that the baseline measures; tokens that the run adds have untrained rows."""
        model: Any = self.task.model.load_for_baseline(self.inputs)
        add_rows(model, self.new_ids)
        return model  # type: ignore[no-any-return]

    def load_for_training(self) -> torch.nn.Module:
        """Loads the model of `load_model`, with quantized weights if the job requests them."""
        model = self.load_model()
        quantize_if_requested(self.config.run.method, model, self.gang.device)
        return model

    @property
    def evaluation_size(self) -> MicroBatchSize:
        """The size of one pass of an evaluation, which needs less memory than a pass of training."""
        return MicroBatchSize.of(self.chosen).doubled

    def autocast(self) -> torch.autocast:
        """The precision of every forward pass: training, validation rows and test rows compute alike."""
        return torch.autocast(self.gang.device.type, dtype=torch.bfloat16, enabled=self.dtypes.autocast)

    def report_progress(self, activity: Activity, before: float, after: float, share: float) -> None:
        """Reports the progress of a part of the stage.

        Args:
            activity: the part.
            before: progress of the stage at the start of the part, in percent.
            after: progress of the stage at the end of the part, in percent.
            share: the share of the part that is done, from 0 to 1.
        """
        self.heartbeat.beat(activity, percent=before + (after - before) * share)


def open_context(config: TrainConfig, paths: Paths, heartbeat: Heartbeat, task: TrainingTask) -> Context:
    """Joins the process group, then downloads rows and base model. A collective operation.

    One rank of each node downloads into the cache of the node, and the other ranks wait.

    Raises:
        StageFailure: class Communication (a rank does not join), UserConfig (no GPU), or Storage.
    """
    if config.chosen is None or config.prepared is None:
        raise StageFailure(FailureClass.INTERNAL, "ChosenMissing", "the config carries no result of Prepare")
    gang = _meet(config, config.chosen, heartbeat)
    heartbeat.beat(Activity.LOADING, percent=0.0)
    store = open_store(config.run.stores.output, "output", paths)
    folder = f"{config.run.runs}prepared/{config.prepared.removeprefix('sha256:')[:16]}/"
    on_bytes = beat_on_bytes(heartbeat, Activity.LOADING)
    # A collective has no heartbeat, so no rank may wait in a collective for the download of another rank.
    downloads = gang.local_rank == 0
    if not downloads:
        wait_for_all(gang, partial(on_bytes, 0))
    # All ranks of a node share the cache; the other ranks find the files there and verify them.
    prepared = load_prepared(store, folder, paths, on_bytes)
    base, base_digest = base_model.fetch(config, paths, on_bytes)
    if downloads:
        wait_for_all(gang, partial(on_bytes, 0))
    wait_for_all(gang, partial(on_bytes, 0))
    new_ids = range(0)
    if tokens := config.run.added_tokens:
        extended = extend_tokenizer(base, tokens, paths.scratch)
        base, new_ids = extended.folder, extended.new_ids
    return Context(
        config=config,
        chosen=config.chosen,
        paths=paths,
        heartbeat=heartbeat,
        gang=gang,
        store=store,
        prepared=prepared,
        data_digest=config.prepared,
        base=base,
        base_digest=base_digest,
        pad_id=choose_pad_token(base).number,
        new_ids=new_ids,
        dtypes=select_dtypes(
            config.chosen.model_dtype, products_dtype(config.run.training, gang), config.chosen.zero_stage
        ),
        task=task,
    )


def products_dtype(training: Training, gang: Gang) -> ComputeType:
    """The data type of matrix products; `Auto` is bfloat16 on GPUs that support bfloat16."""
    if training.precision == "Auto":
        return "bfloat16" if gang.device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if training.precision == "BFloat16" else "float32"


def _meet(config: TrainConfig, chosen: Chosen, heartbeat: Heartbeat) -> Gang:
    startup = config.rendezvous.startup_deadline_seconds
    heartbeat.beat(Activity.RENDEZVOUS, quiet_seconds=startup + 60)
    gang = join_gang(
        gpus=config.run.world.gpus_per_node > 0,
        startup_seconds=startup,
        hang_seconds=config.hang_timeout_seconds,
    )
    if gang.world != chosen.world_size:
        raise StageFailure(
            FailureClass.INTERNAL,
            "WorldSizeDiffers",
            f"{gang.world} processes met where the operator planned for {chosen.world_size}",
        )
    return gang
