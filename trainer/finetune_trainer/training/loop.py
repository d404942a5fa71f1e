"""The training loop: the Trainer of transformers on a DeepSpeed engine, with checks of every step."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from finetune_trainer.contract import Activity, FailureClass
from finetune_trainer.data.batches import Rows, samples_seen
from finetune_trainer.data.lines import Line
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.models.collate import to_device
from finetune_trainer.training.distributed import Gang, gather_objects
from finetune_trainer.training.loader import MicroBatch, RankBatches, RankStep

_NAMED_ROWS = 10

Losses = Callable[[Any, torch.Tensor], torch.Tensor]
"""Outputs of the model and `labels` -> the loss of each label, see tasks.base.TaskModel.loss_function."""


@dataclass(frozen=True)
class Step:
    """One optimizer step, over all ranks. A skipped step has no rows, and no loss and gradient norm (0)."""

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

    An item of the loader is one optimizer step. Before the optimizer changes weights, all ranks check that
    the loss of every target is finite.

    Args:
        gang: the process group.
        batches: the optimizer steps of this rank.
        losses: the loss of each target.
        forward: keyword arguments of every forward pass beside the inputs.
        clip: maximum gradient norm that the optimizer enforces; 0 where DeepSpeed clips.
        heartbeat: the heartbeat of this rank.
        restore: restores the state of the engine before the first step. Takes the engine, and returns the
            number of completed steps.
        checkpoint_due: whether a checkpoint should follow the current step; asked on rank 0 alone.
        skipped_step: number of a step that changes no weights; None: no such step.
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
        restore: Callable[[Any], int] = lambda _: 0,
        checkpoint_due: Callable[[], bool] = lambda: False,
        skipped_step: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.remove_callback(PrinterCallback)
        self.losses, self.forward = losses, dict(forward)
        self.gang, self.batches, self.clip, self.heartbeat = gang, batches, clip, heartbeat
        self.restore, self.skipped_step = restore, skipped_step
        self._is_due = checkpoint_due if gang.first else lambda: False
        self.totals = StepTotals()
        self.preempted = False
        """Whether any rank received the request to end during the last step."""
        self.checkpoint_due = False
        """Whether rank 0 requested a checkpoint after the last step."""
        self._own_norm: float | None = None

    def get_train_dataloader(self) -> DataLoader:  # type: ignore[type-arg]
        """The steps of this rank. Trainer would let accelerate distribute them a second time."""
        return self.batches

    def _prepare_for_training(self, *arguments: Any, **named: Any) -> tuple[Any, Any]:
        """Creates the engine, and restores its state and the position in data and schedule."""
        prepare: Any = super()._prepare_for_training
        engine, loader = prepare(*arguments, **named)
        if step := self.restore(engine):
            self.state.global_step = step
            self.batches.resume_after(samples_seen(step, len(self.batches.split), self.batches.layout.batch))
            schedule: Any = self.lr_scheduler
            # The learning rate is a function of the step; PyTorch counts the calls only for a warning.
            schedule.last_epoch, schedule._step_count = step - 1, step + 1  # noqa: SLF001
            schedule.step()
        return engine, loader

    def _run_epoch(  # type: ignore[override]
        self, *, epoch: int, num_update_steps_per_epoch: int, steps_in_epoch: int, **kwargs: Any
    ) -> None:
        """Runs the steps of an epoch that are not completed. Trainer passes all arguments by name."""
        completed = self.batches.completed(epoch)
        if completed < steps_in_epoch:
            run_epoch: Any = super()._run_epoch
            run_epoch(
                epoch=epoch,
                num_update_steps_per_epoch=num_update_steps_per_epoch - completed,
                steps_in_epoch=steps_in_epoch - completed,
                **kwargs,
            )

    def get_batch_samples(
        self,
        epoch_iterator: Iterator[RankStep],
        num_batches: int,  # noqa: ARG002
        device: torch.device,
    ) -> tuple[list[RankStep], torch.Tensor]:
        """The next step, and the number of its targets on all ranks. A collective operation."""
        step = next(epoch_iterator)
        targets = torch.full((), step.targets, device=device)
        dist.all_reduce(targets)
        return [step], targets

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        """Returns 0, because the operations of a step are not counted."""
        return 0

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

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Computes one optimizer step: forward and backward passes of all micro-batches, check, update.

        The loss of a micro-batch is the sum of its losses over the number of targets of the global batch.
        The sum over all micro-batches therefore does not depend on how the global batch is split. The host
        reads values of the device only once, after the last backward pass was started.

        Args:
            model: the DeepSpeed engine.
            inputs: the step, a RankStep.
            num_items_in_batch: number of targets of the global batch, int64, shape [].

        Returns:
            The share of this rank in the loss of the step, float64, shape [].

        Raises:
            StageFailure: class Numerical, on all ranks, if the loss of a target is not finite. The weights
                are unchanged.
        """
        model.train()
        if self.state.global_step + 1 == self.skipped_step:
            return self._skip_step(inputs, num_items_in_batch)
        # DeepSpeed averages the gradients over the ranks.
        factor = self.gang.world / num_items_in_batch
        step_losses = []
        for micro_batch in inputs.micro_batches:
            model.set_gradient_accumulation_boundary(micro_batch is inputs.micro_batches[-1])
            losses = self.compute_losses(model, micro_batch)
            step_losses.append(losses.detach())
            model.backward(losses.sum() * factor)
        loss = self._check_step(inputs, torch.cat(step_losses), num_items_in_batch)
        model.step()
        return loss

    def _skip_step(self, step: RankStep, targets: torch.Tensor) -> torch.Tensor:
        """Takes part in a step without any change of weights. A collective operation.

        Args:
            step: the step of this rank.
            targets: number of targets of the global batch, shape [].

        Returns:
            The share of this rank in the loss of the step: 0, float64, shape [].
        """
        share = self._check_step(step, torch.zeros(0, device=self.gang.device), targets)
        self.totals = StepTotals(loss=0.0)
        return share

    def compute_losses(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        """The loss of each label of a micro-batch, 0 for labels that are no target, shape [labels]."""
        inputs = to_device(micro_batch.inputs, self.gang.device)
        labels = inputs.pop("labels")
        return self.losses(model(**inputs, **self.forward), labels)

    def _check_step(self, step: RankStep, losses: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sums the step over all ranks. A collective operation.

        Args:
            step: the step of this rank.
            losses: the loss of each label of the step, shape [labels].
            targets: number of targets of the global batch, shape [].

        Returns:
            The share of this rank in the loss of the step, float64, shape [].

        Raises:
            StageFailure: class Numerical, on all ranks, if a loss is not finite.
        """
        share = torch.nan_to_num(losses, posinf=0.0, neginf=0.0).sum(dtype=torch.float64) / targets
        bad = (~torch.isfinite(losses)).sum()
        leave = torch.full_like(share, float(self.heartbeat.leave_requested))
        due = torch.full_like(share, float(self._is_due()))
        figures = torch.stack([share, bad, leave, due])
        dist.all_reduce(figures)
        loss, bad_losses, preempted_ranks, checkpoint_due = figures.tolist()
        self.totals = StepTotals(loss, step.rows, step.tokens)
        self.preempted, self.checkpoint_due = preempted_ranks > 0, checkpoint_due > 0
        if bad_losses:
            numbers = np.concatenate([micro_batch.label_rows for micro_batch in step.micro_batches])
            self._refuse(np.unique(numbers[~torch.isfinite(losses).cpu().numpy()]))
        return share

    def _refuse(self, bad_rows: Rows) -> NoReturn:
        """Raises the failure of a step with a loss that is not finite. A collective operation.

        Args:
            bad_rows: numbers of the rows of this rank with such a loss.
        """
        self.heartbeat.beat(Activity.TRAINING, step=self.state.global_step + 1)
        split = self.batches.split
        lines = [int(split.rows[number]) for number in bad_rows]
        every = sorted(
            Line.of(line, split.files) for rank in gather_objects(self.gang, lines) for line in rank
        )
        raise non_finite("Loss", "loss", self.state.global_step + 1, every)

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
    """Runs around each optimizer step: seeds the step, then checks the gradient and reports the step.

    Args:
        loop: the training loop.
        report: called after every step.
        begin: called before the first step.
        act: called after `report`; its duration does not count as part of a step.
    """

    def __init__(
        self,
        loop: Loop,
        report: Callable[[Step], None],
        begin: Callable[[], None] = lambda: None,
        act: Callable[[Step], None] = lambda _: None,
    ) -> None:
        self.loop, self.report, self.begin, self.act = loop, report, begin, act
        self.started = time.monotonic()
        """Start of the current step, in seconds of a monotonic clock."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Called by Trainer before the first step, on every rank."""
        self.begin()
        self.started = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Seeds the step. Ranks draw different dropout masks, and no random state has to be stored."""
        torch.manual_seed(seed_of_step(self.loop.args.seed, state.global_step, self.loop.gang.rank))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Called by Trainer after every optimizer step, on every rank.

        Raises:
            StageFailure: class Numerical, on all ranks, if the gradient is not finite.
        """
        now = time.monotonic()
        totals = self.loop.totals
        step = Step(
            number=state.global_step,
            loss=totals.loss,
            gradient_norm=0.0 if state.global_step == self.loop.skipped_step else self.loop.gradient_norm,
            learning_rate=self.loop.next_learning_rate,
            rows=totals.rows,
            tokens=totals.tokens,
            seconds=now - self.started,
        )
        # The norm is equal on all ranks, so all ranks fail together.
        if not math.isfinite(step.gradient_norm):
            self.loop.heartbeat.beat(Activity.TRAINING, step=step.number)
            raise non_finite("Gradient", "gradient", step.number, [])
        self.report(step)
        self.act(step)
        self.started = time.monotonic()


def seed_of_step(seed: int, step: int, rank: int) -> int:
    """The seed of the random numbers of a step.

    Args:
        seed: seed of the run.
        step: number of completed steps.
        rank: global rank.
    """
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


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
