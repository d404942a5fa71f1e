"""`python -m bench.checkpoint.worker saving|loading ROOT RESULT ROUNDS`: one rank with the inputs of Train.

`saving` trains. After a step of each round, the rank copies its state, saves a checkpoint, waits for the end
of the upload, and uploads a file of the same size with each client. Then the rank saves a checkpoint and
trains on during the upload. `loading` restores this checkpoint into a new engine, and reads the same bytes.
The result is JSON with the seconds of each measurement.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import torch

from bench.pods import BUCKET
from finetune_trainer.checkpoints.files import BLOCK_BYTES
from finetune_trainer.checkpoints.listing import list_checkpoints, read_checkpoint
from finetune_trainer.config import Checkpoints, TrainConfig
from finetune_trainer.data.batches import Layout
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.paths import Paths
from finetune_trainer.pod.rank import leave
from finetune_trainer.s3.clients import Clients, connect
from finetune_trainer.s3.credentials import read_ca_bundle, read_credentials
from finetune_trainer.tasks.registry import training_task
from finetune_trainer.training import engine_state
from finetune_trainer.training.checkpointing import Checkpointer
from finetune_trainer.training.context import Context, open_context
from finetune_trainer.training.curve import Curve
from finetune_trainer.training.deepspeed_config import own_clip
from finetune_trainer.training.fit import training_arguments
from finetune_trainer.training.loader import RankBatches
from finetune_trainer.training.loop import Loop, Step, StepEnd
from finetune_trainer.training.loop_state import LoopState

_PARALLEL = 4
"""Requests at a time of each client, as in the product."""
_QUIET_STEPS = 4
_BUSY_STEPS = 20
"""Maximum number of steps during an upload."""
_LOOK_SECONDS = 0.005


class EnoughError(Exception):
    """All measurements are done."""


class Progress:
    """A heartbeat that keeps the fields of the progress."""

    leave_requested = False

    def __init__(self) -> None:
        """No field is known yet."""
        self.fields: dict[str, Any] = {}

    def beat(self, *_: object, **fields: Any) -> None:
        """Keeps the fields."""
        self.fields |= fields


class Saving:
    """The measurements between the steps of a training."""

    def __init__(self, context: Context, rounds: int, folder: Path) -> None:
        """Measures nothing yet."""
        self.context, self.rounds, self.folder = context, rounds, folder
        self.progress: Any = context.heartbeat
        self.checkpointer = Checkpointer(context)
        self.engine: Callable[[], Any] = lambda: None
        self.state = LoopState(curve=Curve(total_steps=context.chosen.total_steps))
        self.clients = clients_of(context)
        self.step_seconds: list[float] = []
        self.during: int | None = None
        """Number of the steps before the checkpoint during whose upload training goes on."""
        self.found: dict[str, Any] = {"pause": [], "clone": [], "copy": [], "upload": [], "clients": {}}

    def after(self, step: Step) -> None:
        """Measures after a step; raises EnoughError after the last measurement."""
        self.step_seconds.append(step.seconds)
        if self.during is not None:
            self.checkpointer.collect()
            if (
                self.progress.fields["checkpoint_step"] == self.during
                or step.number > self.during + _BUSY_STEPS
            ):
                self.found["busySteps"] = self.step_seconds[self.during :]
                raise EnoughError
        elif step.number == 1:
            # The first checkpoint allocates the memory of the copy.
            self.save(step.number)
            self.found["firstPause"] = self.progress.fields["checkpoint_pause_seconds"]
            self.await_upload(step.number)
        elif step.number <= 1 + _QUIET_STEPS:
            return
        elif len(self.found["pause"]) < self.rounds:
            self.found.setdefault("quietSteps", self.step_seconds[1:])
            self.measure_round(step.number)
        else:
            self.during = step.number
            self.save(step.number)

    def measure_round(self, step: int) -> None:
        """Measures the copies, the checkpoint, and each client."""
        parts = engine_state.owned_parts(self.engine(), 0, 1)
        self.found["clone"].append(seconds_of(lambda: [part.values.clone() for part in parts]))
        self.found["copy"].append(self.measure_copy(parts))
        self.save(step)
        saved = time.time()
        self.found["pause"].append(self.progress.fields["checkpoint_pause_seconds"])
        self.await_upload(step)
        self.found["upload"].append(self.progress.fields["checkpoint_time"] - saved)
        self.measure_clients()

    def measure_copy(self, parts: Any) -> float:
        """Seconds of a copy to memory that was used before."""
        targets = [part.values.clone() for part in parts]

        def copy() -> None:
            for part, target in zip(parts, targets, strict=True):
                target.copy_(part.values)

        return seconds_of(copy)

    def measure_clients(self) -> None:
        """Uploads a file of the size of the checkpoint with each client."""
        path, size = self.folder / "file", self.size()
        if not path.exists():
            block = torch.randint(256, (BLOCK_BYTES,), dtype=torch.uint8).numpy().tobytes()
            with path.open("wb") as file:
                for start in range(0, size, BLOCK_BYTES):
                    file.write(block[: size - start])
        bulk, control = self.clients.bulk(BUCKET, 0), self.clients.control
        uri = f"s3://{BUCKET}/upload/file"
        uploads: dict[str, Callable[[], Any]] = {
            "Store.upload": lambda: self.context.store.upload(path, uri),
            "obstore": lambda: obstore.put(
                bulk, "upload/file", path, chunk_size=BLOCK_BYTES, max_concurrency=_PARALLEL
            ),
            "minio-py": lambda: control.fput_object(
                BUCKET, "upload/file", str(path), part_size=BLOCK_BYTES, num_parallel_uploads=_PARALLEL
            ),
        }
        for name, upload in uploads.items():
            self.found["clients"].setdefault(name, []).append(seconds_of(upload))
            self.context.store.delete([uri])

    def size(self) -> int:
        """Bytes of the newest checkpoint."""
        name = max(list_checkpoints(self.context.store, self.checkpointer.root).complete)
        checkpoint = read_checkpoint(self.context.store, self.checkpointer.root, name)
        assert checkpoint is not None  # noqa: S101 - it was just saved
        self.found["bytes"] = checkpoint.manifest.size
        return checkpoint.manifest.size

    def save(self, step: int) -> None:
        """Saves a checkpoint; the upload goes on."""
        self.checkpointer.save(self.engine(), self.state, step)

    def await_upload(self, step: int) -> None:
        """Waits until the checkpoint of a step is complete."""
        while self.progress.fields.get("checkpoint_step") != step:
            self.checkpointer.collect()
            time.sleep(_LOOK_SECONDS)


class Loading:
    """The measurements before the first step of a resumed training."""

    def __init__(self, context: Context, rounds: int) -> None:
        """Measures nothing yet."""
        self.context, self.rounds = context, rounds
        self.checkpointer = Checkpointer(context)
        self.bulk = clients_of(context).bulk(BUCKET, 0)
        self.found: dict[str, Any] = {"load": [], "raw": []}

    def restore(self, engine: Any) -> int:
        """Restores and reads, alternately; raises EnoughError."""
        for _ in range(self.rounds):
            self.found["raw"].append(seconds_of(self.read))
            self.found["load"].append(seconds_of(lambda: self.checkpointer.restore(engine)))
        raise EnoughError

    def read(self) -> None:
        """Reads the files of the newest checkpoint in ranges, and discards the content."""
        store, root = self.context.store, self.checkpointer.root
        name = max(list_checkpoints(store, root).complete)
        checkpoint = read_checkpoint(store, root, name)
        assert checkpoint is not None  # noqa: S101 - `saving` has saved the checkpoint
        folder = root.removeprefix(f"s3://{BUCKET}/") + name
        ranges = [
            (f"{folder}/{shard.path}", start, min(BLOCK_BYTES, shard.size - start))
            for shard in checkpoint.manifest.shards
            for start in range(0, shard.size, BLOCK_BYTES)
        ]
        with ThreadPoolExecutor(_PARALLEL) as pool:
            sizes = pool.map(
                lambda part: len(obstore.get_range(self.bulk, part[0], start=part[1], length=part[2])), ranges
            )
        self.found["bytes"] = sum(sizes)


def clients_of(context: Context) -> Clients:
    """The clients of the output store, without the code of the product around them."""
    access, paths = context.config.run.stores.output, context.paths
    bundle = read_ca_bundle(paths, "output") if access.ca_bundle else None
    return connect(access, lambda: read_credentials(paths, "output"), bundle)


def seconds_of(act: Callable[[], Any]) -> float:
    """Duration of a call in seconds; the result is deleted after the measurement."""
    began = time.monotonic()
    result = act()
    seconds = time.monotonic() - began
    del result
    return seconds


def main() -> None:
    """Measures."""
    what, paths, result, rounds = sys.argv[1], Paths(Path(sys.argv[2])), Path(sys.argv[3]), int(sys.argv[4])
    silence_libraries()
    config = TrainConfig.read(paths.config).model_copy(
        update={"checkpoints": Checkpoints(every_seconds=3600, keep=1)}
    )
    context = open_context(config, paths, Progress(), training_task(config.run.task))
    # Before the model: see training_arguments.
    args = training_arguments(context)
    saving = Saving(context, rounds, result.parent) if what == "saving" else None
    loading = Loading(context, rounds) if saving is None else None
    model = context.load_for_training()
    training = config.run.training
    loop = Loop(
        gang=context.gang,
        batches=RankBatches(
            context.prepared.train,
            Layout.of(context.chosen),
            rank=context.gang.rank,
            seed=training.seed,
            collate=context.collate,
            device=context.gang.device,
        ),
        losses=context.task.model.loss_function(training, context.prepared, context.gang.device),
        forward=context.task.model.FORWARD,
        clip=own_clip(context.chosen.zero_stage, training.max_gradient_norm),
        heartbeat=context.heartbeat,
        restore=loading.restore if loading else lambda _: 0,
        model=model,
        args=args,
    )
    if saving:
        saving.engine = lambda: loop.model_wrapped
        loop.add_callback(StepEnd(loop, lambda _: None, act=saving.after))
    measured = saving or loading
    assert measured is not None  # noqa: S101 - for mypy
    try:
        loop.train()
    except EnoughError:
        if saving:
            saving.checkpointer.finish()
    found = {**measured.found, "trained": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    if saving:
        found["steps"] = statistics.median(saving.found["quietSteps"])
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    leave(0)
