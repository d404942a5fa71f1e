"""The training loop: the Trainer of transformers on a DeepSpeed engine, with checks of every step."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from finetune_trainer.config import Training
from finetune_trainer.contract import Chosen, FailureClass
from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.lines import Line
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.models.collate import IGNORE_INDEX, Tensors
from finetune_trainer.models.dtypes import Dtypes
from finetune_trainer.training.deepspeed_config import deepspeed_config, engine_clip
from finetune_trainer.training.distributed import Gang, gather_objects, preempted_failure, sum_over_ranks
from finetune_trainer.training.loader import RankBatches

_SCHEDULES = {"Linear": "linear", "Cosine": "cosine", "Constant": "constant_with_warmup"}
_NAMED_ROWS = 10

Losses = Callable[[Any, torch.Tensor], torch.Tensor]
"""Outputs of the model and `labels` -> the loss of each target, see tasks.base.TaskModel.loss_function."""


@dataclass(frozen=True)
class Step:
    """One optimizer step, over all ranks."""

    number: int
    loss: float
    """Mean over the targets of the global batch."""
    gradient_norm: float
    """L2 norm over all trained parameters, before clipping."""
    learning_rate: float
    """Learning rate of the next step."""
    rows: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class StepTotals:
    """The sums of one optimizer step over all ranks."""

    loss: float = math.nan
    """Mean over the targets of the global batch."""
    rows: int = 0
    tokens: int = 0


class Loop(Trainer):
    """A Trainer whose loss is the mean over the targets of a global batch.

    Before every optimizer step, all ranks check that the loss of every target is finite.

    Args:
        gang: the process group.
        batches: the micro-batches of this rank.
        losses: the loss of each target.
        forward: keyword arguments of every forward pass beside the inputs.
        clip: maximum gradient norm that the optimizer enforces; 0 where DeepSpeed clips.
        heartbeat: the heartbeat of this rank.
        kwargs: arguments of Trainer.
    """

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
        # The labels of the trainer are aligned with the predictions already, also for language models.
        self._loss_shifts_labels = False
        self.losses, self.forward = losses, dict(forward)
        self.gang, self.batches, self.clip, self.heartbeat = gang, batches, clip, heartbeat
        self.target_rows = torch.empty(0, dtype=torch.int64)
        """Row number of each target of the current micro-batch, in the shape of `labels`."""
        self.totals = StepTotals()
        self.preempted = False
        """Whether any rank received the request to end during the last step."""
        self._own_norm: float | None = None
        self._start_step()

    def _start_step(self) -> None:
        self._micro_batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._rows = self._tokens = 0

    def get_train_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        """The micro-batches of this rank. Trainer would let accelerate distribute them a second time."""
        return self.batches

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """The names of the parameters with weight decay: no biases and no norms, those of DoRA included."""
        names = super().get_decay_parameter_names(model)
        return [name for name in names if ".lora_magnitude_vector." not in name]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; at ZeRO stage 0, where DeepSpeed does not report the norm, the optimizer also clips."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if new and self.clip > 0:
            optimizer.register_step_pre_hook(self._clip_before_step)
        return optimizer

    def compute_loss(self, model: Any, inputs: Tensors, *args: Any, **kwargs: Any) -> Any:
        """The loss of one micro-batch; the last micro-batch of a step also checks the step on all ranks."""
        rows = inputs.pop("rows")
        self.target_rows = rows[inputs.pop("row_index")]
        numbers = rows[rows != FILLER].cpu().numpy()
        self._rows += len(numbers)
        self._tokens += int(self.batches.split.lengths[numbers].sum())
        loss = super().compute_loss(model, {**inputs, **self.forward}, *args, **kwargs)
        if self.accelerator.sync_gradients:
            self._check_step()
        return loss

    def _mean_over_batch(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor
    ) -> torch.Tensor:
        """The sum of the losses of a micro-batch over the number of targets of the global batch.

        Trainer counts the targets of all ranks and micro-batches, and undoes the averaging over ranks. The
        sum over all micro-batches therefore does not depend on how the global batch is split.
        """
        losses = self.losses(outputs, labels)
        self._micro_batches.append((losses.detach(), self.target_rows[labels != IGNORE_INDEX]))
        return losses.sum() / num_items_in_batch

    def _check_step(self) -> None:
        """Sums the step over all ranks. A collective operation.

        Raises:
            StageFailure: class Numerical, on all ranks, if the loss of a target is not finite.
        """
        losses = torch.cat([losses for losses, _ in self._micro_batches])
        rows = torch.cat([rows for _, rows in self._micro_batches])
        bad_rows = set(rows[~torch.isfinite(losses)].tolist())
        loss, targets, step_rows, step_tokens, bad, preempted_ranks = sum_over_ranks(
            self.gang,
            [
                float(torch.nan_to_num(losses, posinf=0.0, neginf=0.0).sum()),
                float(len(losses)),
                float(self._rows),
                float(self._tokens),
                float(len(bad_rows)),
                float(self.heartbeat.leave_requested),
            ],
        )
        self._start_step()
        self.totals = StepTotals(loss / targets, int(step_rows), int(step_tokens))
        self.preempted = preempted_ranks > 0
        if bad:
            split = self.batches.split
            lines = [int(split.rows[number]) for number in bad_rows]
            all_lines = sorted(
                Line.of(line, split.files) for rank in gather_objects(self.gang, lines) for line in rank
            )
            raise non_finite("Loss", "loss", self.state.global_step + 1, all_lines)

    def _clip_before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._own_norm = float(torch.nn.utils.clip_grad_norm_(weights, self.clip))

    @property
    def next_learning_rate(self) -> float:
        """Learning rate of the next step."""
        schedule: Any = self.lr_scheduler
        return float(schedule.get_last_lr()[0])

    @property
    def gradient_norm(self) -> float:
        """L2 norm of the gradient of the last step over all ranks, before clipping."""
        if self._own_norm is not None:
            return self._own_norm
        engine: Any = self.deepspeed
        return float(engine.get_global_grad_norm())


class StepEnd(TrainerCallback):
    """Runs after each optimizer step: checks the gradient, reports the step, and evaluates at some steps.

    Args:
        loop: the training loop.
        report: called after every step.
        evaluation_steps: the steps after which `evaluate` is called.
        evaluate: called with the number of the step.
    """

    def __init__(
        self,
        loop: Loop,
        report: Callable[[Step], None],
        evaluation_steps: Collection[int] = (),
        evaluate: Callable[[int], None] | None = None,
    ) -> None:
        self.loop, self.report = loop, report
        self.evaluation_steps, self.evaluate = evaluation_steps, evaluate
        self.started = time.monotonic()
        """Start of the current step, in seconds of a monotonic clock."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Seeds each rank differently, so that ranks draw different dropout masks."""
        torch.manual_seed(self.loop.args.seed + self.loop.gang.rank)
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Called by Trainer after every optimizer step, on every rank.

        Raises:
            StageFailure: class Numerical (the gradient is not finite) or Preempted; on all ranks.
        """
        now = time.monotonic()
        totals = self.loop.totals
        step = Step(
            number=state.global_step,
            loss=totals.loss,
            gradient_norm=self.loop.gradient_norm,
            learning_rate=self.loop.next_learning_rate,
            rows=totals.rows,
            tokens=totals.tokens,
            seconds=now - self.started,
        )
        # The norm is equal on all ranks, so all ranks fail together.
        if not math.isfinite(step.gradient_norm):
            raise non_finite("Gradient", "gradient", step.number, [])
        self.report(step)
        if self.loop.preempted:
            raise preempted_failure(step.number)
        if self.evaluate and step.number in self.evaluation_steps:
            self.evaluate(step.number)
            now = time.monotonic()
        self.started = now


def arguments(
    chosen: Chosen,
    training: Training,
    dtypes: Dtypes,
    *,
    folder: str,
    gpus: bool,
    steps: int,
) -> TrainingArguments:
    """The arguments of Trainer.

    The arguments must exist before the model is loaded: they make transformers load the model in shards at
    ZeRO stage 3.

    Args:
        chosen: hyperparameters from Prepare.
        training: hyperparameters from the spec.
        dtypes: data types of weights and matrix products.
        folder: a scratch folder.
        gpus: whether the job uses GPUs.
        steps: number of optimizer steps of the run.
    """
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
        deepspeed=deepspeed_config(chosen, training, dtypes),
        activation_checkpointing=chosen.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        # transformers refuses a DeepSpeed configuration that differs from this argument.
        bf16=dtypes.weights == "bfloat16",
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
    """The failure of a run whose loss or gradient is NaN or infinite.

    Args:
        reason: `NonFinite` is put in front of this.
        what: the value that is not finite, for the message.
        step: number of the optimizer step.
        lines: line numbers of the training rows with such a loss.
    """
    shown = ", ".join(map(str, lines[:_NAMED_ROWS]))
    more = f" and {len(lines) - _NAMED_ROWS} more" if len(lines) > _NAMED_ROWS else ""
    where = f"; rows (lines of dataset.train): {shown}{more}" if lines else ""
    return StageFailure(
        FailureClass.NUMERICAL,
        f"NonFinite{reason}",
        f"the {what} of step {step} is not finite{where}",
        "look at these rows; else lower training.learningRate, or use precision Float32",
    )
