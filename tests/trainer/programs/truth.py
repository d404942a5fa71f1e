"""Run by torchrun: steps of the real loop at fixed weights, for many ways to split one global batch.

Arguments: the result file, and one or more JSON lists
[subject, folder of the base model, method, [[ZeRO stage, size of a micro-batch, unit], ...], precision,
data type of the base model, whether to use activation checkpointing].
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from transformers import set_seed

from finetune_trainer.config import ClassWeights, ComputeType, Method, Training
from finetune_trainer.contract import Chosen, Offload, WeightsDtype
from finetune_trainer.data.batches import Layout, steps_per_epoch
from finetune_trainer.data.lines import FileSpan
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.models import methods
from finetune_trainer.models.dtypes import select_dtypes
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.packing import Packing
from finetune_trainer.models.quantized_layers import quantize_if_requested
from finetune_trainer.pod.rank import leave
from finetune_trainer.tasks.base import TaskModel
from finetune_trainer.tasks.registry import model_of
from finetune_trainer.training import deepspeed_config, loop
from finetune_trainer.training.arguments import arguments
from finetune_trainer.training.deepspeed_config import own_clip
from finetune_trainer.training.distributed import Gang, join_gang
from finetune_trainer.training.loader import RankBatches
from tests.trainer.programs.device_reads import DeviceReads

ROWS, CLASSES, BATCH, VOCABULARY = 21, 3, 8, 50
STANDING_STILL = 1e-30
"""A learning rate that moves nothing."""


@dataclass(frozen=True)
class Subject:
    """A task with rows of its own."""

    model: TaskModel
    rows: Split
    labels: tuple[str, ...]
    packing: Packing | None
    class_weights: ClassWeights = "None"

    @property
    def prepared(self) -> Prepared:
        """The rows as Prepare leaves them."""
        return Prepared(self.rows, self.rows, self.rows, self.labels)

    def load(
        self,
        base: Path,
        how: Method,
        dtype: torch.dtype = torch.float32,
        loaded: Callable[[torch.nn.Module], None] = lambda _: None,
    ) -> torch.nn.Module:
        """The same weights every time; an adapter is given random matrices, for a new one changes nothing.

        The principal components of random weights (PiSSA) would depend on the rounding of the weights.
        """
        set_seed(1)
        model = self.model.load(base, self.prepared, dtype)
        loaded(model)
        tuned = methods.apply_method(how, model, self.model.head(model), seed=1)
        quantize_if_requested(how, tuned, torch.device("cpu"))
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if ".lora_A." in name or ".lora_B." in name:
                    weight.normal_(std=0.1)
        return tuned


def labelled_rows() -> Split:
    """21 rows of 1 to 14 tokens: two full batches of 8 and a short one of 5."""
    random = np.random.default_rng(7)
    counts = random.integers(1, 15, ROWS)
    return Split(
        tokens=random.integers(1, VOCABULARY, counts.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        labels=(np.arange(ROWS) % CLASSES).astype(np.int32),
        rows=(np.arange(ROWS) + 100).astype(np.int64),
        files=(FileSpan(file="a.csv", before=0), FileSpan(file="b.csv", before=90)),
        loss_mask=np.zeros(counts.sum(), dtype=np.bool_),
    )


def uneven_labels() -> npt.NDArray[np.int32]:
    """15, 4 and 2 rows of the three classes."""
    return np.array([0, 1, 0, 0, 2, 0, 0] * 2 + [0, 1, 0, 0, 0, 0, 1], dtype=np.int32)


def trained_rows() -> Split:
    """21 rows of 2 to 15 tokens, of which some are in the loss, the last token always."""
    random = np.random.default_rng(8)
    counts = random.integers(2, 16, ROWS)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    loss_mask = random.random(counts.sum()) < 0.5
    loss_mask[offsets[1:] - 1], loss_mask[offsets[:-1]] = True, False
    return Split(
        tokens=random.integers(7, 300, counts.sum()).astype(np.int32),
        offsets=offsets,
        labels=np.zeros(ROWS, dtype=np.int32),
        rows=(np.arange(ROWS) + 100).astype(np.int64),
        loss_mask=loss_mask,
    )


CLASSIFICATION = Subject(
    model_of("TextClassification"), labelled_rows(), tuple(map(str, range(CLASSES))), packing=None
)
PACKED = Subject(model_of("TextGeneration"), trained_rows(), (), packing=Packing(pair=0, head=0))
PADDED = replace(PACKED, packing=None)
UNEVEN = replace(CLASSIFICATION, rows=replace(CLASSIFICATION.rows, labels=uneven_labels()))
BALANCED = replace(UNEVEN, class_weights="Balanced")
SQUARE_ROOT = replace(UNEVEN, class_weights="SquareRoot")
SUBJECTS = {
    "classification": CLASSIFICATION,
    "packed": PACKED,
    "padded": PADDED,
    "balanced": BALANCED,
    "square root": SQUARE_ROOT,
}


class Watched(loop.Loop):
    """The loop, which notes the order of backward passes, update and reads of the device in each step."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps: list[list[str]] = []

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Computes the step with an engine that notes its calls."""
        calls: list[str] = []
        self.steps.append(calls)
        with DeviceReads(calls):
            return super().training_step(NotingEngine(model, calls), inputs, num_items_in_batch)


class NotingEngine:
    """An engine of DeepSpeed that notes backward passes and updates."""

    def __init__(self, engine: Any, calls: list[str]) -> None:
        self.engine, self.calls = engine, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def __call__(self, **inputs: Any) -> Any:
        return self.engine(**inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Starts a backward pass."""
        self.engine.backward(loss)
        self.calls.append("backward")

    def step(self) -> None:
        """Updates the weights."""
        self.calls.append("step")
        self.engine.step()


class Calm:
    """A heartbeat without effect, and without a request to end."""

    leave_requested = False

    def beat(self, *_args: object, **_progress: object) -> None:
        """Nothing."""


def steps(
    gang: Gang,
    subject: Subject,
    base: Path,
    zero_stage: int,
    size: int,
    unit: Literal["rows", "tokens"] = "rows",
    *,
    heartbeat: Heartbeat,
    how: Method = "Full",
    offload: Offload = "None",
    learning_rate: float = STANDING_STILL,
    precision: ComputeType = "float32",
    base_dtype: WeightsDtype = "float32",
    checkpointing: bool = False,
    loaded: Callable[[torch.nn.Module], None] = lambda _: None,
    after: Callable[["Watched"], None] = lambda _: None,
) -> list[tuple[float, float, int]]:
    """Loss, gradient norm and rows of each step of one epoch."""
    chosen = Chosen(
        epochs=1,
        batch_size=BATCH,
        micro_batch_size=size if unit == "rows" else None,
        micro_batch_tokens=size if unit == "tokens" else None,
        world_size=gang.world,
        learning_rate=learning_rate,
        max_length=16,
        zero_stage=zero_stage,
        total_steps=steps_per_epoch(ROWS, BATCH),
        activation_checkpointing=checkpointing,
        offload=offload,
    )
    training = Training(
        weight_decay=0.0, max_gradient_norm=1e9, warmup_fraction=0.0, class_weights=subject.class_weights
    )
    dtypes = select_dtypes(base_dtype, precision, zero_stage)
    taken: list[loop.Step] = []
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(chosen, training, dtypes, folder=folder, gpus=False, steps=chosen.total_steps)
        model = subject.load(base, how, getattr(torch, dtypes.weights), loaded)
        batches = RankBatches(
            subject.rows,
            Layout.of(chosen),
            rank=gang.rank,
            seed=3,
            collate=partial(subject.model.collate, pad_id=0, packing=subject.packing),
        )
        run = Watched(
            gang=gang,
            batches=batches,
            losses=subject.model.loss_function(training, subject.prepared, gang.device),
            forward=subject.model.FORWARD,
            clip=own_clip(zero_stage, training.max_gradient_norm),
            heartbeat=heartbeat,
            model=model,
            args=args,
        )
        run.add_callback(loop.StepEnd(run, taken.append))
        run.train()
        if checkpointing != any(getattr(part, "gradient_checkpointing", False) for part in model.modules()):
            raise AssertionError("activation checkpointing is not as requested")
        after(run)
        run.model_wrapped.destroy()
    torch.distributed.barrier()
    return [(step.loss, step.gradient_norm, step.rows) for step in taken]


def main() -> None:
    """Measures every case in one process group."""
    result = Path(sys.argv[1])
    silence_libraries()
    # DeepSpeed would keep the parameters of a tiny model on every rank.
    deepspeed_config.PERSISTENT = 0  # type: ignore[attr-defined]
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    measured: dict[str, Any] = {}
    calls: list[list[str]] = []
    for subject, base, method, splits, precision, base_dtype, checkpointing in map(json.loads, sys.argv[2:]):
        how: Method = TypeAdapter(Method).validate_python(method)
        for split in splits:
            figures = steps(
                gang,
                SUBJECTS[subject],
                Path(base),
                *split,
                heartbeat=Calm(),
                how=how,
                precision=precision,
                base_dtype=base_dtype,
                checkpointing=checkpointing,
                after=lambda run: calls.extend(run.steps),
            )
            measured[json.dumps([subject, method, split, precision, base_dtype, checkpointing])] = figures
    if gang.first:
        result.write_text(json.dumps({"figures": measured, "calls": calls}))


if __name__ == "__main__":
    main()
    leave(0)
