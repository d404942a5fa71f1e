"""Training itself: the loop is run, validation is measured, and the best weights stay."""

import logging
import math
import time
from dataclasses import dataclass
from functools import partial

from finetune_trainer.contract import HIGHER_IS_BETTER, Activity, Best, MetricName
from finetune_trainer.data.batches import Layout, steps_per_epoch
from finetune_trainer.report.record import CurvePoint, EpochRow
from finetune_trainer.training import best_weights
from finetune_trainer.training.context import Scene
from finetune_trainer.training.curve import Curve
from finetune_trainer.training.deepspeed_config import own_clip
from finetune_trainer.training.distributed import from_first
from finetune_trainer.training.evaluate import over_rows
from finetune_trainer.training.loop import (
    AtEpochEnd,
    Edge,
    Loop,
    RankBatches,
    Step,
    arguments,
    evaluated_epochs,
    non_finite,
)
from finetune_trainer.training.meter import Meter

log = logging.getLogger(__name__)

_LOG_SECONDS = 10


@dataclass(frozen=True)
class Tuned:
    """What training reached."""

    best: Best
    history: tuple[EpochRow, ...]
    curve: tuple[CurvePoint, ...]
    steps: int
    seconds: float
    """All of it: steps, validation and keeping weights."""
    rows_per_second: float
    """In the steps alone, over all ranks."""
    tokens_per_second: float


def tune(scene: Scene, *, first_percent: float, last_percent: float) -> Tuned:
    """Trains; the weights that do best on the validation rows end up in `scene.best_weights` on rank 0.

    Raises:
        StageFailure: Numerical, Preempted; on all ranks alike.
    """
    run, chosen, gang = scene.config.run, scene.chosen, scene.gang
    seed, train, primary = run.training.seed, scene.prepared.train, run.evaluation.primary_metric
    per_epoch = steps_per_epoch(len(train), chosen.batch_size)
    total = chosen.epochs * per_epoch
    args = arguments(
        chosen,
        run.training,
        scene.precision,
        run.offload,
        folder=str(scene.places.scratch / "trainer"),
        gpus=gang.device.type == "cuda",
        steps=total,
    )
    model = scene.load_model()
    loop = Loop(
        gang=gang,
        batches=RankBatches(train, Layout.of(chosen), rank=gang.rank, seed=seed, collate=scene.collated),
        losses=scene.learning.losses,
        forward=scene.learning.FORWARD,
        clip=own_clip(chosen.zero_stage, run.training.max_gradient_norm),
        pulse=scene.pulse,
        model=model,
        args=args,
    )
    tally = _Tally(scene, Meter(total, first_percent, last_percent), per_epoch)
    history: list[EpochRow] = []
    best: list[Best] = []

    def at_epoch_end(epoch: int, step: int) -> None:
        value = _validation(scene, loop)
        if not math.isfinite(value):
            raise non_finite("Loss", "loss of the validation rows after the last update", step, [])
        scene.pulse.beat(Activity.EVALUATING, validation=value)
        history.append(EpochRow(epoch=epoch, step=step, training_loss=tally.mean_loss(), validation=value))
        if not best or better(primary, value, best[-1].metric):
            best.append(Best(step=step, metric=value))
            scene.pulse.beat(Activity.SAVING)
            best_weights.keep(gang, model, scene.best_weights)
        if gang.first:
            log.info("epoch %d: %s %.4f on validation rows", epoch, primary, value)

    edge = Edge(loop, tally.step)
    loop.add_callback(edge)
    loop.add_callback(AtEpochEnd(edge, evaluated_epochs(chosen.epochs), at_epoch_end))
    began = time.monotonic()
    loop.train()
    seconds = max(tally.seconds, 1e-9)
    return Tuned(
        best=best[-1],
        history=tuple(history),
        curve=tally.curve.points,
        steps=total,
        seconds=time.monotonic() - began,
        rows_per_second=tally.rows / seconds,
        tokens_per_second=tally.tokens / seconds,
    )


def better(metric: MetricName, value: float, best: float) -> bool:
    """Whether a value of a metric is better than the best so far; equal is not."""
    return value > best if HIGHER_IS_BETTER[metric] else value < best


def _validation(scene: Scene, loop: Loop) -> float:
    """The primary metric on the validation rows, the same number on every rank."""
    engine = loop.model_wrapped
    engine.eval()
    prepared, learning = scene.prepared, scene.learning
    answers = over_rows(
        scene,
        partial(learning.answers, engine),
        prepared.validation,
        lambda _: scene.pulse.beat(Activity.EVALUATING),
    )
    engine.train()
    primary = scene.config.run.evaluation.primary_metric
    value = learning.measured(primary, answers, prepared.validation, len(prepared.labels))
    # Ranks on unlike machines may round differently; a decision must be the same everywhere.
    return float(from_first(scene.gang, value))


class _Tally:
    """Counts the steps and tells people how it goes."""

    def __init__(self, scene: Scene, meter: Meter, steps_per_epoch: int) -> None:
        self.scene, self.meter, self.steps_per_epoch = scene, meter, steps_per_epoch
        self.curve = Curve(meter.total_steps)
        self.rows = self.tokens = 0
        self.seconds = 0.0
        self._loss, self._loss_rows = 0.0, 0
        self._logged = 0.0

    def step(self, step: Step) -> None:
        """After every optimizer step."""
        now = time.monotonic()
        self.rows += step.rows
        self.tokens += step.tokens
        self.seconds += step.seconds
        self._loss += step.loss * step.rows
        self._loss_rows += step.rows
        self.curve = self.curve.after(step)
        self.meter = self.meter.after(step.number, now=now, samples=self.rows, tokens=self.tokens)
        fields = self.meter.fields()
        self.scene.pulse.beat(
            Activity.TRAINING,
            epoch=step.number / self.steps_per_epoch,
            loss=step.loss,
            gradient_norm=step.gradient_norm,
            learning_rate=step.learning_rate,
            **fields,
        )
        if self.scene.gang.first and now - self._logged > _LOG_SECONDS:
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
        """Mean over the rows since this was asked last."""
        loss, self._loss = self._loss, 0.0
        rows, self._loss_rows = self._loss_rows, 0
        return loss / rows
