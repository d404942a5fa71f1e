"""Training: runs the loop, evaluates the validation rows, and saves checkpoints."""

import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NoReturn

import torch
from transformers import TrainingArguments

from finetune_trainer.contract import HIGHER_IS_BETTER, Activity, Best, FailureClass, MetricName
from finetune_trainer.data.batches import Layout, evaluation_steps, steps_per_epoch
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.flops import flops_per_token, peak_flops
from finetune_trainer.models.weights import torch_dtype
from finetune_trainer.report.record import CurvePoint, EvaluationRow
from finetune_trainer.training import peak_memory, rank_speed
from finetune_trainer.training.arguments import arguments
from finetune_trainer.training.checkpointing import Checkpointer
from finetune_trainer.training.context import Context
from finetune_trainer.training.curve import Curve
from finetune_trainer.training.deepspeed_config import own_clip
from finetune_trainer.training.distributed import broadcast_object, preempted_failure
from finetune_trainer.training.evaluate import over_rows
from finetune_trainer.training.loader import RankBatches
from finetune_trainer.training.loop import Loop, Step, StepEnd, non_finite
from finetune_trainer.training.loop_state import BestWeights, LoopState
from finetune_trainer.training.meter import Meter

log = logging.getLogger(__name__)

_LOG_SECONDS = 10


@dataclass(frozen=True)
class Tuned:
    """The result of training."""

    best: Best
    checkpoint: str
    """URI of the checkpoint with the best weights, with a slash at the end."""
    history: tuple[EvaluationRow, ...]
    curve: tuple[CurvePoint, ...]
    steps: int
    epochs: float
    """Passes over the training rows."""
    seconds: float
    """Duration of training over all attempts: steps, evaluations, and pauses for checkpoints."""
    rows_per_second: float
    """Throughput of the steps alone, over all ranks."""
    tokens_per_second: float


def training_arguments(context: Context) -> TrainingArguments:
    """The arguments of Trainer. As long as they exist, models are loaded in shards at ZeRO stage 3."""
    run, chosen = context.config.run, context.chosen
    return arguments(
        chosen,
        run.training,
        context.dtypes,
        folder=str(context.paths.scratch / "trainer"),
        gpus=context.gang.device.type == "cuda",
        steps=chosen.epochs * steps_per_epoch(len(context.prepared.train), chosen.batch_size),
    )


def tune(context: Context, args: TrainingArguments, *, first_percent: float, last_percent: float) -> Tuned:
    """Trains from the newest checkpoint, or else from the first step. A collective operation.

    The weights with the best score on the validation rows are a checkpoint afterwards.

    Args:
        context: the run.
        args: the result of `training_arguments`.
        first_percent: progress of the stage at the start of training, in percent.
        last_percent: progress of the stage at the end of training, in percent.

    Raises:
        StageFailure: class Numerical, Storage or Preempted; on all ranks.
    """
    chosen = context.chosen
    per_epoch = steps_per_epoch(len(context.prepared.train), chosen.batch_size)
    total = chosen.epochs * per_epoch
    training = _Training(context, Meter(total, first_percent, last_percent), per_epoch, args)
    training.loop.train()
    training.checkpointer.finish()
    engine: Any = training.loop.model_wrapped
    # Otherwise, hooks of the engine keep the model in memory.
    engine.destroy()
    state = training.current_state()
    if state.best is None:
        raise AssertionError("the last step has no evaluation")
    seconds = max(state.step_seconds, 1e-9)
    return Tuned(
        best=state.best.score,
        checkpoint=f"{training.checkpointer.root}{state.best.checkpoint}/",
        history=state.history,
        curve=state.curve.points,
        steps=total,
        epochs=float(chosen.epochs),
        seconds=state.training_seconds,
        rows_per_second=state.rows / seconds,
        tokens_per_second=state.tokens / seconds,
    )


def better(metric: MetricName, value: float, best: float) -> bool:
    """Whether a value of a metric is better than the best so far; equal is not."""
    return value > best if HIGHER_IS_BETTER[metric] else value < best


class _Training:
    """A training on one rank: the loop, its state, and what follows each step."""

    def __init__(self, context: Context, meter: Meter, steps_per_epoch: int, args: TrainingArguments) -> None:
        run, chosen, gang = context.config.run, context.chosen, context.gang
        model = context.load_for_training()
        self.context, self.steps_per_epoch = context, steps_per_epoch
        self.meter = replace(meter, peak_tokens_per_second=_peak_speed(context, model))
        self.state = LoopState(curve=Curve(total_steps=meter.total_steps))
        self.checkpointer = Checkpointer(context)
        self.evaluation_steps = evaluation_steps(chosen.epochs, steps_per_epoch)
        self._began = time.monotonic()
        self._logged = 0.0
        self.loop = Loop(
            gang=gang,
            batches=RankBatches(
                context.prepared.train,
                Layout.of(chosen),
                rank=gang.rank,
                seed=run.training.seed,
                collate=context.collate,
                device=gang.device,
            ),
            losses=context.task.model.loss_function(run.training, context.prepared, gang.device),
            forward=context.task.model.FORWARD,
            clip=own_clip(chosen.zero_stage, run.training.max_gradient_norm),
            heartbeat=context.heartbeat,
            restore=self._restore,
            checkpoint_due=self.checkpointer.is_due,
            skipped_step=context.config.skipped_step,
            model=model,
            args=args,
        )
        self.loop.add_callback(StepEnd(self.loop, self._report, self._begin, self._act))

    def current_state(self) -> LoopState:
        """The state with the duration of training until now."""
        now = time.monotonic()
        seconds = self.state.training_seconds + now - self._began
        self._began = now
        self.state = self.state.model_copy(update={"training_seconds": seconds})
        return self.state

    def _restore(self, engine: Any) -> int:
        """Restores engine and state from a checkpoint. Returns the number of completed steps."""
        restored = self.checkpointer.restore(engine)
        if restored is None:
            return 0
        step, self.state = restored
        return step

    def _begin(self) -> None:
        """Compares the ranks, and evaluates now if the previous attempt ended before this evaluation."""
        self._began = time.monotonic()
        self._compare_ranks()
        self.context.heartbeat.beat(Activity.TRAINING)
        step = self.loop.state.global_step
        if step in self.evaluation_steps and not self.state.evaluated_at(step):
            self._evaluate_and_save(step)

    def _act(self, step: Step) -> None:
        """After a step: ends on request, evaluates the validation rows, and saves a checkpoint if due.

        Raises:
            StageFailure: class Numerical, Storage or Preempted; on all ranks.
        """
        self.checkpointer.collect()
        if self.loop.preempted:
            self._leave(step.number)
        if step.number in self.evaluation_steps:
            self._evaluate_and_save(step.number)
        elif self.loop.checkpoint_due:
            self._save(step.number)
            self._compare_ranks()

    def _compare_ranks(self) -> None:
        """Reports the speed of the ranks: before the first step, and at checkpoints whose interval passed."""
        if speed := rank_speed.measure(self.context.gang, torch_dtype(self.context.dtypes.products)):
            self.context.heartbeat.beat(Activity.TRAINING, **asdict(speed))

    def _evaluate_and_save(self, step: int) -> None:
        """Evaluates the validation rows; saves better weights, and the end of training."""
        try:
            value = _validation(self.context, self.loop)
        except StageFailure as failure:
            if failure.failure is FailureClass.PREEMPTED:
                self._leave(step)
            raise
        if not math.isfinite(value):
            raise non_finite("Loss", "loss of the validation rows after the last update", step, [])
        epoch = step / self.steps_per_epoch
        primary = self.context.config.run.evaluation.primary_metric
        self.context.heartbeat.beat(Activity.TRAINING, validation=value)
        if self.context.gang.first:
            log.info("epoch %.3g: %s %.4f on validation rows", epoch, primary, value)
        self.state = self.state.evaluated(epoch, step, value)
        best = self.state.best
        improved = best is None or better(primary, value, best.score.metric)
        if improved:
            best = BestWeights(
                score=Best(step=step, metric=value), checkpoint=self.checkpointer.name_of(step)
            )
            self.state = self.state.model_copy(update={"best": best})
        ended = step == self.meter.total_steps and self.checkpointer.resumable
        if improved or ended or self.loop.checkpoint_due:
            self._save(step)

    def _save(self, step: int) -> None:
        self.context.heartbeat.beat(Activity.SAVING)
        self.checkpointer.save(self.loop.model_wrapped, self.current_state(), step)

    def _leave(self, step: int) -> NoReturn:
        """Saves a checkpoint if attempts resume from checkpoints, and ends this rank.

        Raises:
            StageFailure: class Preempted; or the failure that prevented the checkpoint.
        """
        if self.checkpointer.resumable:
            self.context.heartbeat.beat(Activity.SAVING)
            self.checkpointer.save_now(self.loop.model_wrapped, self.current_state(), step)
        raise preempted_failure(step, saved=self.checkpointer.resumable)

    def _report(self, step: Step) -> None:
        """Reports a step to heartbeat and log."""
        now = time.monotonic()
        self.state = self.state.after(step)
        self.meter = self.meter.after(step.number, now=now, samples=self.state.rows, tokens=self.state.tokens)
        figures = {"loss": step.loss, "gradient_norm": step.gradient_norm}
        if step.number == self.loop.skipped_step:
            figures = {}
            log.warning("skipped step %d: its loss or gradient was not finite before", step.number)
        self.context.heartbeat.beat(
            Activity.TRAINING,
            epoch=step.number / self.steps_per_epoch,
            **figures,
            learning_rate=step.learning_rate,
            peak_memory_bytes=peak_memory.measure(self.context.gang.device),
            **self.meter.fields(),
        )
        if self.context.gang.first and now - self._logged > _LOG_SECONDS:
            self._logged = now
            log.info(
                "step %d of %d: loss %.4f, gradient norm %.3f, %.1f rows/s",
                step.number,
                self.meter.total_steps,
                step.loss,
                step.gradient_norm,
                self.state.rows / self.state.step_seconds,
            )


def _peak_speed(context: Context, model: torch.nn.Module) -> float | None:
    """Tokens per second at the peak of all GPUs; None if the peak is unknown."""
    peak = peak_flops(context.gang.device, context.dtypes.products)
    return peak and context.gang.world * peak / flops_per_token(model)


def _validation(context: Context, loop: Loop) -> float:
    """The primary metric on the validation rows, equal on every rank. A collective operation."""
    engine = loop.model_wrapped
    engine.eval()
    prepared, task = context.prepared, context.task
    predictions = over_rows(
        context,
        partial(task.model.predict, engine),
        prepared.validation,
        lambda _: context.heartbeat.beat(Activity.EVALUATING),
    )
    engine.train()
    primary = context.config.run.evaluation.primary_metric
    value = task.metrics.score(primary, predictions, prepared.validation, len(prepared.labels))
    # Ranks on different machines may round differently, but must select the same weights.
    return float(broadcast_object(context.gang, value))
