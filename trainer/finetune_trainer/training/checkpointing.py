"""Checkpoints of a gang: when one is due, how the ranks save it together, and how a new attempt resumes."""

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError

from finetune_trainer.checkpoints.documents import (
    CheckpointManifest,
    ShardFile,
    UnusableCheckpointError,
    identity_of,
)
from finetune_trainer.checkpoints.files import BLOCK_BYTES, Part
from finetune_trainer.checkpoints.interval import interval_seconds
from finetune_trainer.checkpoints.listing import Checkpoint, folder_of, usable
from finetune_trainer.checkpoints.reading import CheckpointReader
from finetune_trainer.checkpoints.saver import Saved, Saver
from finetune_trainer.config import Checkpoints
from finetune_trainer.contract import Activity, CheckpointRef, Digest, FailureClass
from finetune_trainer.data.batches import samples_seen
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import beat_on_bytes
from finetune_trainer.models.weights import trained_tensors
from finetune_trainer.report.record import versions
from finetune_trainer.s3.results import writer
from finetune_trainer.s3.uploads import UPLOAD_SILENCE_SECONDS
from finetune_trainer.training import best_weights, engine_state
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import (
    broadcast_object,
    gather_objects,
    message_board,
    wait_for_all,
)
from finetune_trainer.training.loop_state import LoopState

log = logging.getLogger(__name__)

BEST_ALONE = Checkpoints(keep=1)
"""Without checkpoints in the config, only the checkpoint with the best weights is saved."""


class Checkpointer:
    """Saves and restores the checkpoints of a run. All methods but `is_due` and `collect` are collective.

    Args:
        context: the run.
    """

    def __init__(self, context: Context) -> None:
        config, gang = context.config, context.gang
        self.context = context
        self.resumable = config.checkpoints is not None
        """Whether attempts resume from checkpoints; else only the best weights are saved."""
        self._settings = config.checkpoints or BEST_ALONE
        self._identity = identity_of(config.run, context.chosen, context.data_digest, context.base_digest)
        self.root = folder_of(config.run.runs, self._identity)
        self._suffix: str = broadcast_object(gang, f"{config.attempt}-{writer()}")
        self._saver = Saver(
            context.store,
            self.root,
            message_board(self.root),
            rank=gang.rank,
            world=gang.world,
            keep=self._settings.keep,
            # A thread gives no heartbeat while one request with its retries runs.
            silence_seconds=max(UPLOAD_SILENCE_SECONDS, config.hang_timeout_seconds),
        )
        self._copy_seconds: float | None = None
        """Duration of the last copy to host memory; None before the first checkpoint."""
        self._last: float | None = None
        """Time of the last checkpoint, or of the first step: seconds of a monotonic clock."""
        self._lost: StageFailure | None = None
        """The failure with which the best weights were lost."""
        self._insisted = False

    def name_of(self, step: int) -> str:
        """Name of the checkpoint that this gang saves after a step."""
        return f"{step:08d}-{self._suffix}"

    def is_due(self) -> bool:
        """Whether the interval between two checkpoints has passed, and no checkpoint is being saved."""
        if not self.resumable or self._saver.busy:
            return False
        now = time.monotonic()
        if self._last is None:
            self._last = now
        interval = interval_seconds(self._settings, self._copy_seconds, self.context.config.world.nodes)
        return now - self._last >= interval

    def save(self, engine: Any, state: LoopState, step: int) -> None:
        """Copies the state of training to host memory; the upload runs in the background.

        If an earlier checkpoint is still being uploaded, the gang waits for its end.

        Args:
            engine: the DeepSpeed engine, after a step.
            state: the state of the loop, whose best weights may be those of this step.
            step: number of completed steps.

        Raises:
            StageFailure: Numerical (WeightsOverflow); Storage, if the best weights before were not saved.
        """
        began = time.monotonic()
        gang = self.context.gang
        is_best = state.best is not None and state.best.checkpoint == self.name_of(step)
        self._wait()
        waited = time.monotonic()
        if self._lost and not is_best:
            raise self._lost
        self._lost = None
        engine_state.complete_moments(engine)
        parts = engine_state.owned_parts(engine, gang.rank, gang.world)
        if is_best:
            best_weights.check_rounding(gang, parts, self.context.published_dtype)
        describe = partial(self._describe, state=state, step=step, zero_stage=self.context.chosen.zero_stage)
        self._insisted = is_best
        self._saver.start(self.name_of(step), [*parts, *_buffers(engine.module)], describe, insist=is_best)
        self._last = time.monotonic()
        self._copy_seconds = self._last - waited
        self.context.heartbeat.beat(Activity.TRAINING, checkpoint_pause_seconds=self._last - began)

    def finish(self) -> None:
        """Waits at the end of training until the checkpoint that is being saved is complete.

        Raises:
            StageFailure: Storage, on all ranks, if the best weights were not saved.
        """
        self._wait(last=True)
        if self._lost:
            raise self._lost

    def save_now(self, engine: Any, state: LoopState, step: int) -> None:
        """Saves the last checkpoint of an attempt that ends early, and waits until it is complete.

        Args:
            engine: see `save`.
            state: see `save`.
            step: see `save`.

        Raises:
            StageFailure: on all ranks, if the checkpoint was not saved.
        """
        self._wait(last=True)
        self.save(engine, state, step)
        outcome = self._wait(last=True)
        if isinstance(outcome, StageFailure):
            raise outcome

    def collect(self) -> None:
        """Reports a checkpoint whose upload has ended."""
        self._record(self._saver.collect(), Activity.TRAINING)

    def restore(self, engine: Any) -> tuple[int, LoopState] | None:
        """Restores the newest checkpoint that can be read.

        Args:
            engine: the DeepSpeed engine before its first step.

        Returns:
            The number of completed steps, and the state of the loop; None: the run starts at the first step.

        Raises:
            StageFailure: a failure of the store.
        """
        if not self.resumable:
            return None
        context = self.context
        for checkpoint in candidates(context, self.root, self._identity):
            state = self._restore_from(checkpoint, engine)
            if state:
                self._saver.resumed = checkpoint.name
                step = checkpoint.manifest.step
                created = datetime.fromisoformat(checkpoint.manifest.created)
                self._report(Activity.LOADING, checkpoint.ref, created.timestamp())
                context.heartbeat.beat(Activity.LOADING, resumed_from_step=step)
                log.info("resumed from checkpoint %s%s/", self.root, checkpoint.name)
                return step, state
        return None

    def _restore_from(self, checkpoint: Checkpoint, engine: Any) -> LoopState | None:
        """Restores a checkpoint; None if a rank cannot read its part, and then the engine is unchanged."""
        context = self.context
        gang = context.gang
        on_bytes = beat_on_bytes(context.heartbeat, Activity.LOADING)
        manifest = checkpoint.manifest
        reader = CheckpointReader(context.store, f"{self.root}{checkpoint.name}/", manifest, on_bytes)
        skipped = context.config.skipped_step
        updates = manifest.step - (skipped is not None and skipped <= manifest.step)
        engine_state.create_moments(engine, updates)
        held, buffers = engine_state.held_parts(engine), _buffers(engine.module)
        copies, own = [_on_host(part) for part in held], [_on_host(part) for part in buffers]
        problem, state = "", None
        try:
            state = LoopState.model_validate(manifest.loop)
            reader.fill(copies)
            # Each rank has buffers of its own; at another world size, all ranks start with those of rank 0.
            reader.fill(own, shard=gang.rank if manifest.world == gang.world else 0)
        except (UnusableCheckpointError, ValidationError) as error:
            problem = str(error)
        wait_for_all(gang, partial(on_bytes, 0))
        if problems := [text for text in gather_objects(gang, problem) if text]:
            engine.basic_optimizer.state.clear()
            log.warning("checkpoint %s is damaged; trying the one before: %s", checkpoint.name, problems[0])
            return None
        with torch.no_grad():
            for part, copy in zip([*held, *buffers], [*copies, *own], strict=True):
                part.values.copy_(copy.values)
        engine_state.share_weights(engine)
        return state

    def _wait(self, *, last: bool = False) -> Saved | StageFailure | None:
        outcome = self._saver.wait(partial(self.context.heartbeat.beat, Activity.SAVING), last=last)
        self._record(outcome, Activity.SAVING)
        return outcome

    def _record(self, outcome: Saved | StageFailure | None, activity: Activity) -> None:
        if isinstance(outcome, Saved):
            self._report(activity, outcome.ref, outcome.time)
        elif outcome:
            log.warning("a checkpoint was not saved: %s", outcome.message)
            self._lost = _as_lost(outcome) if self._insisted else self._lost

    def _report(self, activity: Activity, ref: CheckpointRef, at: float) -> None:
        self.context.heartbeat.beat(activity, checkpoint=ref, checkpoint_step=ref.step, checkpoint_time=at)

    def _describe(
        self, shards: tuple[ShardFile, ...], *, state: LoopState, step: int, zero_stage: int
    ) -> CheckpointManifest:
        context = self.context
        return CheckpointManifest(
            step=step,
            samples=samples_seen(step, len(context.prepared.train), context.chosen.batch_size),
            world=context.gang.world,
            zero_stage=zero_stage,
            attempt=context.config.attempt,
            config=context.config.run.digest(),
            identity=self._identity,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            best=state.best.checkpoint if state.best else None,
            block_bytes=BLOCK_BYTES,
            shards=shards,
            loop=state.model_dump(mode="json", by_alias=True),
        )


def candidates(context: Context, root: str, identity: Digest) -> Iterator[Checkpoint]:
    """Yields the usable checkpoints of a run, newest first, equal on every rank. Collective operations.

    Args:
        context: the run.
        root: folder of the checkpoints of the run, with a slash at the end.
        identity: see documents.Identity.

    Raises:
        StageFailure: a failure of the store.
    """
    found = usable(context.store, root, identity) if context.gang.first else iter(())
    while True:
        candidate = next(found, None)
        # The other ranks give heartbeats while rank 0 reads manifests.
        wait_for_all(context.gang, partial(context.heartbeat.beat, Activity.LOADING))
        checkpoint: Checkpoint | None = broadcast_object(context.gang, candidate)
        if checkpoint is None:
            return
        yield checkpoint


def _as_lost(outcome: StageFailure) -> StageFailure:
    """The failure of an attempt whose best weights were not saved, of the class Storage."""
    if outcome.failure is not FailureClass.COMMUNICATION:
        return outcome
    text = f"the best weights were not saved: {outcome.message}"
    return StageFailure(FailureClass.STORAGE, "StorageFailed", text)


def _buffers(module: torch.nn.Module) -> list[Part]:
    """The saved buffers of a model; the values are views."""
    return [
        Part("buffer", name, 0, value.detach().view(-1))
        for name, value in trained_tensors(module)
        if not isinstance(value, torch.nn.Parameter)
    ]


def _on_host(part: Part) -> Part:
    """A part of the same place with uninitialised values in host memory."""
    return Part(part.kind, part.name, part.offset, torch.empty_like(part.values, device="cpu"))
