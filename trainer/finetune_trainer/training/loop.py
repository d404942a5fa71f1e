"""The training loop: Hugging Face's Trainer on a DeepSpeed engine, with own batches, losses and checks."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from finetune_trainer.config import Offload, Training
from finetune_trainer.contract import Chosen, FailureClass
from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.lines import Line
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.models.collate import IGNORE_INDEX, Tensors
from finetune_trainer.training.deepspeed_config import Precision, deepspeed_config, engine_clip
from finetune_trainer.training.distributed import Gang, gathered, preempted, summed
from finetune_trainer.training.loader import RankBatches

MOST_EVALUATIONS = 5
_SCHEDULES = {"Linear": "linear", "Cosine": "cosine", "Constant": "constant_with_warmup"}
_NAMED_ROWS = 10

Losses = Callable[[Any, torch.Tensor], torch.Tensor]
"""The model's outputs and `labels` -> the loss of each label, see tasks.protocol.Learning."""


@dataclass(frozen=True)
class Step:
    """One optimizer step, over all ranks."""

    number: int
    loss: float
    """Mean over the labels of the global batch."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    """Of the next step."""
    rows: int
    tokens: int
    seconds: float


class Loop(Trainer):
    """Trainer whose loss is the mean over the labels of a global batch, with a guard before every step."""

    def __init__(
        self,
        *,
        gang: Gang,
        batches: RankBatches,
        losses: Losses,
        forward: Mapping[str, Any],
        clip: float,
        heartbeat: Heartbeat,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs, compute_loss_func=self._mean_over_batch)
        self.remove_callback(PrinterCallback)
        # Our labels stand where they are predicted, also those of a language model.
        self._loss_shifts_labels = False
        self.losses, self.forward = losses, dict(forward)
        self.gang, self.batches, self.clip, self.heartbeat = gang, batches, clip, heartbeat
        self.taken: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.owners = torch.empty(0, dtype=torch.int64)
        self.seen_rows = self.seen_tokens = 0
        self.decided: list[float] = []
        self.own_norm: float | None = None
        self.leaving = False

    def get_train_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        """Our batches are dealt to the ranks already: accelerate must not deal them again."""
        return self.batches

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; at ZeRO-0 it also clips, so that the norm of the gradient is known there too."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if new and self.clip > 0:
            optimizer.register_step_pre_hook(self._clip_before_step)
        return optimizer

    def compute_loss(self, model: Any, inputs: Tensors, *args: Any, **kwargs: Any) -> Any:
        """The loss of one micro-batch; at the last one of a step all ranks agree that it may be taken."""
        rows = inputs.pop("rows")
        self.owners = rows[inputs.pop("row_index")]
        there = rows[rows != FILLER].cpu().numpy()
        self.seen_rows += len(there)
        self.seen_tokens += int(self.batches.split.lengths[there].sum())
        loss = super().compute_loss(model, {**inputs, **self.forward}, *args, **kwargs)
        if self.accelerator.sync_gradients:
            self._agree()
        return loss

    def _mean_over_batch(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor
    ) -> torch.Tensor:
        """The sum of these losses over the number of labels of the global batch, however it is split.

        Trainer counts the labels of all ranks and micro-batches, and undoes the averaging over ranks.
        """
        losses = self.losses(outputs, labels)
        self.taken.append((losses.detach(), self.owners[labels != IGNORE_INDEX]))
        return losses.sum() / num_items_in_batch

    def _agree(self) -> None:
        losses = torch.cat([losses for losses, _ in self.taken])
        rows = torch.cat([rows for _, rows in self.taken])
        bad = set(rows[~torch.isfinite(losses)].tolist())
        total, labels, seen, tokens, spoilt, leaving = summed(
            self.gang,
            [
                float(torch.nan_to_num(losses, posinf=0.0, neginf=0.0).sum()),
                float(len(losses)),
                float(self.seen_rows),
                float(self.seen_tokens),
                float(len(bad)),
                float(self.heartbeat.leave_requested),
            ],
        )
        self.taken, self.seen_rows, self.seen_tokens = [], 0, 0
        self.decided = [total / labels, seen, tokens]
        self.leaving = leaving > 0
        if spoilt:
            lines = [int(self.batches.split.rows[number]) for number in bad]
            files = self.batches.split.files
            everyones = sorted(Line.of(line, files) for mine in gathered(self.gang, lines) for line in mine)
            raise non_finite("Loss", "loss", self.state.global_step + 1, everyones)

    def _clip_before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.own_norm = float(torch.nn.utils.clip_grad_norm_(weights, self.clip))

    @property
    def next_learning_rate(self) -> float:
        """Learning rate of the next step."""
        schedule: Any = self.lr_scheduler
        return float(schedule.get_last_lr()[0])

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient of the last step before clipping, over all ranks."""
        if self.own_norm is not None:
            return self.own_norm
        engine: Any = self.deepspeed
        return float(engine.get_global_grad_norm())


class StepEnd(TrainerCallback):
    """Runs after each optimizer step: reports the step, checks the gradient, ends the rank if asked to."""

    def __init__(self, loop: Loop, report: Callable[[Step], None]) -> None:
        self.loop, self.report = loop, report
        self.since = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Ranks draw different dropout masks."""
        torch.manual_seed(self.loop.args.seed + self.loop.gang.rank)
        self.since = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """After every optimizer step, on every rank alike."""
        now = time.monotonic()
        loss, rows, tokens = self.loop.decided
        step = Step(
            number=state.global_step,
            loss=loss,
            gradient_norm=self.loop.gradient_norm,
            learning_rate=self.loop.next_learning_rate,
            rows=int(rows),
            tokens=int(tokens),
            seconds=now - self.since,
        )
        self.since = now
        # Every rank sees the same norm, so that all of them end here.
        if not torch.isfinite(torch.tensor(step.gradient_norm)):
            raise non_finite("Gradient", "gradient", step.number, [])
        self.report(step)
        if self.loop.leaving:
            raise preempted(step.number)


class AtEpochEnd(TrainerCallback):
    """Calls back when an epoch is over that is to be evaluated."""

    def __init__(self, step_end: StepEnd, epochs: set[int], evaluate: Callable[[int, int], None]) -> None:
        self.step_end, self.epochs, self.evaluate = step_end, epochs, evaluate

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Tells (epoch counted from 1, step)."""
        epoch = round(state.epoch)
        if epoch in self.epochs:
            self.evaluate(epoch, state.global_step)
        self.step_end.since = time.monotonic()


def evaluated_epochs(epochs: int, most: int = MOST_EVALUATIONS) -> set[int]:
    """The epochs (counted from 1) after which validation is measured: evenly spread, the last one always."""
    count = min(epochs, most)
    return {round(epochs * (turn + 1) / count) for turn in range(count)}


def arguments(
    chosen: Chosen,
    training: Training,
    precision: Precision,
    offload: Offload,
    *,
    folder: str,
    gpus: bool,
    steps: int,
) -> TrainingArguments:
    """Everything Trainer is told; must exist before the model is loaded: ZeRO-3 loads it in shards."""
    clip = engine_clip(chosen.zero_stage, training.max_gradient_norm)
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=chosen.epochs,
        per_device_train_batch_size=chosen.micro_batch_size,
        gradient_accumulation_steps=chosen.accumulation_steps,
        learning_rate=chosen.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=round(training.warmup_fraction * steps),
        lr_scheduler_type=_SCHEDULES[training.schedule],
        max_grad_norm=clip,
        optim="adamw_torch_fused",
        seed=training.seed,
        use_cpu=not gpus,
        deepspeed=deepspeed_config(chosen, training, precision, offload),
        label_names=["labels"],
        average_tokens_across_devices=True,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def non_finite(reason: str, what: str, step: int, lines: Sequence[int]) -> StageFailure:
    """The failure of a run whose loss or gradient is no number any more."""
    shown = ", ".join(map(str, lines[:_NAMED_ROWS]))
    more = f" and {len(lines) - _NAMED_ROWS} more" if len(lines) > _NAMED_ROWS else ""
    where = f"; rows (lines of dataset.train): {shown}{more}" if lines else ""
    return StageFailure(
        FailureClass.NUMERICAL,
        f"NonFinite{reason}",
        f"the {what} of step {step} is not finite{where}",
        "look at these rows; else lower training.learningRate, or use precision Float32",
    )
