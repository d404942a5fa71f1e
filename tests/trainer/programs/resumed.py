"""Run by torchrun: trainings of one gang, each whole, interrupted, or resumed.

Arguments: root folder of the trainer, result file, and one or more JSON lists
[name of the folder of the run, ZeRO stage, offload, method, attempt, step at which the attempt ends, how].
An attempt ends `preempted` after the step, `evaluating` in the evaluation after the step, `killed` after the
step when the first checkpoint is complete, `killed-saving`: killed in the same way, with a checkpoint due
after every step, or `diverged`: the loss of step SKIPPED is not finite, after the first checkpoint is
complete. An attempt that is `skipping` skips step SKIPPED, `skipping-first` the first step, and is preempted
after the given step, if any.
With `at-heartbeat`, the step is a list: the heartbeat of each rank after which the rank receives the request
to end; a checkpoint is due after every step.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pydantic import TypeAdapter

from finetune_trainer.checkpoints.documents import MANIFEST
from finetune_trainer.checkpoints.listing import all_checkpoints
from finetune_trainer.config import Checkpoints, Method, TrainConfig
from finetune_trainer.contract import Activity
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.dtypes import select_dtypes
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.paths import Paths
from finetune_trainer.pod.rank import leave
from finetune_trainer.tasks.registry import training_task
from finetune_trainer.training import checkpointing, deepspeed_config, evaluate
from finetune_trainer.training.context import Context, open_context
from finetune_trainer.training.fit import training_arguments, tune
from finetune_trainer.training.loader import MicroBatch
from finetune_trainer.training.loop import Loop
from tests.trainer.checkpoints.written import until

SKIPPED = 3


class Killed(Exception):  # noqa: N818 - not an error
    """The end of an attempt without warning."""


class Ending:
    """A heartbeat that ends the attempt at a step, and keeps the progress.

    Args:
        step: the step.
        how: how the attempt ends.
        saved: whether a checkpoint of the run is complete.
    """

    def __init__(
        self, step: int | None = None, how: str | None = None, saved: Callable[[], bool] = lambda: True
    ) -> None:
        self.step, self.how, self.saved = step, how, saved
        self.activity: Activity | None = None
        self.progress: dict[str, Any] = {}
        self.heartbeats = 0

    def beat(self, activity: Activity, *_: object, **progress: Any) -> None:
        """Keeps the progress; raises Killed at the step, if that is how the attempt ends."""
        left_out = {"quiet_seconds", "checkpoint"}
        self.activity = activity
        self.heartbeats += 1
        self.progress |= {name: value for name, value in progress.items() if name not in left_out}
        if self.how in {"killed", "killed-saving"} and progress.get("step") == self.step:
            until(self.saved)
            raise Killed
        if self.how == "diverged" and progress.get("step") == SKIPPED - 1:
            until(self.saved)

    @property
    def leave_requested(self) -> bool:
        """Whether the attempt ends after the current step, or during the current evaluation."""
        if self.how == "at-heartbeat":
            return self.step is not None and self.heartbeats >= self.step
        last = self.progress.get("step", 0)
        if self.how == "evaluating":
            return last == self.step and self.activity is Activity.EVALUATING
        return (
            self.how in {"preempted", "skipping", "skipping-first"}
            and self.step is not None
            and last >= self.step - 1
        )


def train(context: Context, case: list[Any]) -> dict[str, Any]:
    """Runs one case. Returns how the attempt ended, and its progress."""
    folder, stage, offload, method, attempt, step, how = case
    how_trained: Method = TypeAdapter(Method).validate_python(method)
    run = context.config.run
    run = run.model_copy(
        update={
            "runs": f"{run.runs}{folder}/",
            "method": how_trained,
            "zero_stage": stage,
            "world": run.world.model_copy(update={"processes_per_node": context.gang.world}),
        }
    )
    chosen = context.chosen.model_copy(
        update={
            "zero_stage": stage,
            "offload": offload,
            "world_size": context.gang.world,
            "accumulation_steps": 4 // context.gang.world,
        }
    )
    checkpoints = all_checkpoints(run.runs)
    if how == "at-heartbeat":
        step = step[context.gang.rank]
    heartbeat = Ending(
        step, how, lambda: any(entry.uri.endswith(MANIFEST) for entry in context.store.list(checkpoints))
    )
    config = context.config.model_copy(
        update={
            "run": run,
            "chosen": chosen,
            "attempt": attempt,
            "checkpoints": Checkpoints(keep=2),
            "skipped_step": {"skipping": SKIPPED, "skipping-first": 1}.get(how),
        }
    )
    context = replace(
        context,
        config=config,
        chosen=chosen,
        heartbeat=heartbeat,
        dtypes=select_dtypes(chosen.model_dtype, context.dtypes.products, stage),
    )
    interval = 0.0 if how in {"killed-saving", "diverged", "at-heartbeat"} else 3600.0
    compute_losses = Loop.compute_losses

    def diverging(loop: Loop, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        losses = compute_losses(loop, model, micro_batch)
        return losses * torch.nan if loop.state.global_step + 1 == SKIPPED else losses

    try:
        with (
            mock.patch.object(checkpointing, "interval_seconds", return_value=interval),
            mock.patch.object(Loop, "compute_losses", diverging if how == "diverged" else compute_losses),
        ):
            tuned = tune(context, training_arguments(context), first_percent=0, last_percent=100)
        ended = {
            "ended": "done",
            "best": tuned.best.model_dump(),
            "checkpoint": tuned.checkpoint,
            "history": [row.model_dump() for row in tuned.history],
            "curve": [point.model_dump(exclude={"rows_per_second"}) for point in tuned.curve],
            "steps": tuned.steps,
        }
    except StageFailure as failure:
        ended = {"ended": failure.reason, "message": failure.message}
    except Killed:
        ended = {"ended": "killed"}
    return {**ended, "progress": heartbeat.progress}


def main() -> None:
    """Runs the cases one after the other in one process group."""
    paths, result = Paths(Path(sys.argv[1])), Path(sys.argv[2])
    silence_libraries()
    # DeepSpeed would keep the parameters of a tiny model on every rank.
    deepspeed_config.PERSISTENT = int(sys.argv[3])  # type: ignore[attr-defined]
    evaluate._ROUNDS_BETWEEN_CHECKS = 1
    config = TrainConfig.read(paths.config)
    context = open_context(config, paths, Ending(), training_task(config.run.task))
    outcomes = [train(context, json.loads(case)) for case in sys.argv[4:]]
    if context.gang.first:
        result.write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
    leave(0)
