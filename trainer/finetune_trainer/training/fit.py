"""Training: runs the loop, evaluates the validation rows, and saves the best weights."""

import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import TrainingArguments

from finetune_trainer.contract import HIGHER_IS_BETTER, Activity, Best, MetricName
from finetune_trainer.data.batches import Layout, evaluation_steps, steps_per_epoch
from finetune_trainer.models.flops import flops_per_token, peak_flops
from finetune_trainer.report.record import CurvePoint, EvaluationRow
from finetune_trainer.training import best_weights, peak_memory
from finetune_trainer.training.arguments import arguments
from finetune_trainer.training.context import Context
from finetune_trainer.training.curve import Curve
from finetune_trainer.training.deepspeed_config import own_clip
from finetune_trainer.training.distributed import broadcast_object
from finetune_trainer.training.evaluate import over_rows
from finetune_trainer.training.loader import RankBatches
from finetune_trainer.training.loop import Loop, Step, StepEnd, non_finite
from finetune_trainer.training.meter import Meter

log = logging.getLogger(__name__)

_LOG_SECONDS = 10


@dataclass(frozen=True)
class Tuned:
    """The result of training."""

    best: Best
    history: tuple[EvaluationRow, ...]
    curve: tuple[CurvePoint, ...]
    steps: int
    seconds: float
    """Duration of training: steps, evaluations, and saving the best weights."""
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
    """Trains, and saves the weights with the best score on the validation rows. A collective operation.

    Args:
        context: the run; rank 0 has the best weights at `context.best_weights` afterwards.
        args: the result of `training_arguments`.
        first_percent: progress of the stage at the start of training, in percent.
        last_percent: progress of the stage at the end of training, in percent.

    Raises:
        StageFailure: class Numerical or Preempted; on all ranks.
    """
    run, chosen, gang = context.config.run, context.chosen, context.gang
    seed, train, primary = run.training.seed, context.prepared.train, run.evaluation.primary_metric
    per_epoch = steps_per_epoch(len(train), chosen.batch_size)
    total = chosen.epochs * per_epoch
    model = context.load_for_training()
    loop = Loop(
        gang=gang,
        batches=RankBatches(
            train,
            Layout.of(chosen),
            rank=gang.rank,
            seed=seed,
            collate=context.collate,
            device=gang.device,
        ),
        losses=context.task.model.loss_function(run.training, context.prepared, gang.device),
        forward=context.task.model.FORWARD,
        clip=own_clip(chosen.zero_stage, run.training.max_gradient_norm),
        heartbeat=context.heartbeat,
        model=model,
        args=args,
    )
    peak = peak_flops(gang.device, context.dtypes.products)
    peak_speed = peak and gang.world * peak / flops_per_token(model)
    reporter = _StepReporter(context, Meter(total, first_percent, last_percent, peak_speed), per_epoch)
    history: list[EvaluationRow] = []
    best: list[Best] = []

    def evaluate(step: int) -> None:
        epoch, value = step / per_epoch, _validation(context, loop)
        if not math.isfinite(value):
            raise non_finite("Loss", "loss of the validation rows after the last update", step, [])
        context.heartbeat.beat(Activity.EVALUATING, validation=value)
        history.append(
            EvaluationRow(epoch=epoch, step=step, training_loss=reporter.mean_loss(), validation=value)
        )
        if not best or better(primary, value, best[-1].metric):
            best.append(Best(step=step, metric=value))
            context.heartbeat.beat(Activity.SAVING)
            best_weights.keep(gang, model, context.best_weights, context.published_dtype)
        if gang.first:
            log.info("epoch %.3g: %s %.4f on validation rows", epoch, primary, value)

    loop.add_callback(StepEnd(loop, reporter.step, evaluation_steps(chosen.epochs, per_epoch), evaluate))
    began = time.monotonic()
    loop.train()
    engine: Any = loop.model_wrapped
    # Otherwise, hooks of the engine keep the model in memory.
    engine.destroy()
    seconds = max(reporter.seconds, 1e-9)
    return Tuned(
        best=best[-1],
        history=tuple(history),
        curve=reporter.curve.points,
        steps=total,
        seconds=time.monotonic() - began,
        rows_per_second=reporter.rows / seconds,
        tokens_per_second=reporter.tokens / seconds,
    )


def better(metric: MetricName, value: float, best: float) -> bool:
    """Whether a value of a metric is better than the best so far; equal is not."""
    return value > best if HIGHER_IS_BETTER[metric] else value < best


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


class _StepReporter:
    """Counts rows and tokens of the steps, and reports the progress to heartbeat and log."""

    def __init__(self, context: Context, meter: Meter, steps_per_epoch: int) -> None:
        self.context, self.meter, self.steps_per_epoch = context, meter, steps_per_epoch
        self.curve = Curve(meter.total_steps)
        self.rows = self.tokens = 0
        self.seconds = 0.0
        self._loss, self._loss_rows = 0.0, 0
        self._logged = 0.0

    def step(self, step: Step) -> None:
        """Reports one optimizer step."""
        now = time.monotonic()
        self.rows += step.rows
        self.tokens += step.tokens
        self.seconds += step.seconds
        self._loss += step.loss * step.rows
        self._loss_rows += step.rows
        self.curve = self.curve.after(step)
        self.meter = self.meter.after(step.number, now=now, samples=self.rows, tokens=self.tokens)
        fields = self.meter.fields()
        self.context.heartbeat.beat(
            Activity.TRAINING,
            epoch=step.number / self.steps_per_epoch,
            loss=step.loss,
            gradient_norm=step.gradient_norm,
            learning_rate=step.learning_rate,
            peak_memory_bytes=peak_memory.measure(self.context.gang.device),
            **fields,
        )
        if self.context.gang.first and now - self._logged > _LOG_SECONDS:
            self._logged = now
            log.info(
                "step %d of %d: loss %.4f, gradient norm %.3f, %.1f rows/s",
                step.number,
                self.meter.total_steps,
                step.loss,
                step.gradient_norm,
                self.rows / self.seconds,
            )

    def mean_loss(self) -> float:
        """Mean training loss over the rows since the last call."""
        loss, self._loss = self._loss, 0.0
        rows, self._loss_rows = self._loss_rows, 0
        return loss / rows
