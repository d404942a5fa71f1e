"""The product's own training loop, on a DeepSpeed engine, as a pod of one process runs it."""

import tempfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import TrainerCallback, set_seed

from bench.loop_inputs import Calm
from bench.train_throughput.lesson import (
    MOST_GRADIENT_NORM,
    SEED,
    WARMUP_FRACTION,
    WEIGHT_DECAY,
    Lesson,
    Outcome,
    Rows,
)
from bench.train_throughput.plain import load_plain_model
from finetune_trainer.config import Training
from finetune_trainer.contract import Chosen
from finetune_trainer.data.batches import Layout, steps_per_epoch
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.models.dtypes import select_dtypes
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.packing import Packing
from finetune_trainer.models.padding import choose_pad_token
from finetune_trainer.tasks.registry import model_of
from finetune_trainer.tasks.text_generation.model import packing_of
from finetune_trainer.training import loop
from finetune_trainer.training.arguments import arguments
from finetune_trainer.training.deepspeed_config import own_clip
from finetune_trainer.training.distributed import Gang, join_gang
from finetune_trainer.training.loader import RankBatches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ZERO_STAGE = 0
"""What Prepare chooses for one process."""


def train(lesson: Lesson, callbacks: list[TrainerCallback]) -> Outcome:
    """Trains; `way` is `padded` or `packed`, or `product`: whichever is less work for each micro-batch."""
    gang = _gang()
    task = model_of("TextGeneration" if lesson.task == "TextGeneration" else "TextClassification")
    split = _split(lesson)
    chosen = _chosen(lesson, gang)
    training = Training(
        weight_decay=WEIGHT_DECAY,
        warmup_fraction=WARMUP_FRACTION,
        max_gradient_norm=MOST_GRADIENT_NORM,
        seed=SEED,
    )
    taken: list[loop.Step] = []
    base = Path(lesson.base)
    with tempfile.TemporaryDirectory() as folder:
        # Before the model: see training.arguments.
        args = arguments(
            chosen,
            training,
            select_dtypes(chosen.model_dtype, "float32", _ZERO_STAGE),
            folder=folder,
            gpus=False,
            steps=chosen.total_steps,
        )
        model = task.load(base, Prepared(split, split, split, _labels(split)), torch.float32)
        # All contenders start from the same weights, also those of a new head.
        set_seed(SEED)
        model.load_state_dict(load_plain_model(lesson).state_dict())
        run = loop.Loop(
            gang=gang,
            batches=RankBatches(
                split,
                Layout.of(chosen),
                rank=gang.rank,
                seed=SEED,
                collate=partial(
                    task.collate, pad_id=choose_pad_token(base).number, packing=_packing(lesson, model)
                ),
            ),
            losses=task.loss_function(training, Prepared(split, split, split, _labels(split)), gang.device),
            forward=task.FORWARD,
            clip=own_clip(_ZERO_STAGE, MOST_GRADIENT_NORM),
            heartbeat=Calm(),
            model=model,
            args=args,
        )
        run.add_callback(loop.StepEnd(run, taken.append))
        for callback in callbacks:
            run.add_callback(callback)
        run.train()
    losses = [step.loss for step in taken]
    return Outcome(loss=sum(losses) / len(losses), gradient_norm=taken[-1].gradient_norm)


def _packing(lesson: Lesson, model: "PreTrainedModel") -> Packing | None:
    if lesson.way == "padded" or lesson.task != "TextGeneration":
        return None
    return packing_of(model) if lesson.way == "product" else Packing(pair=0, head=0)


@cache
def _gang() -> Gang:
    silence_libraries()
    return join_gang(gpus=False, startup_seconds=120, hang_seconds=3600)


def _chosen(lesson: Lesson, gang: Gang) -> Chosen:
    return Chosen(
        epochs=lesson.epochs,
        batch_size=lesson.batch,
        micro_batch_size=lesson.micro_batch,
        accumulation_steps=lesson.accumulation,
        world_size=gang.world,
        learning_rate=lesson.learning_rate,
        max_length=512,
        zero_stage=_ZERO_STAGE,
        total_steps=lesson.epochs * steps_per_epoch(lesson.count, lesson.batch),
    )


def _split(lesson: Lesson) -> Split:
    rows = Rows.of(lesson)
    return Split(
        tokens=rows.tokens,
        offsets=rows.offsets,
        labels=rows.labels,
        rows=np.arange(1, lesson.count + 1, dtype=np.int64),
        loss_mask=rows.loss_mask,
    )


def _labels(split: Split) -> tuple[str, ...]:
    return tuple(map(str, range(int(split.labels.max()) + 1)))
