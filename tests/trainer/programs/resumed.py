"""Run by torchrun: trainings of one gang, each whole, interrupted, or resumed.

Arguments: root folder of the trainer, result file, and one or more JSON lists
[name of the folder of the run, ZeRO stage, offload, method, attempt, step at which the attempt ends, how].
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from finetune_trainer.config import Checkpoints, Method, TrainConfig
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.dtypes import select_dtypes
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.paths import Paths
from finetune_trainer.pod.rank import leave
from finetune_trainer.tasks.registry import training_task
from finetune_trainer.training import deepspeed_config
from finetune_trainer.training.context import Context, open_context
from finetune_trainer.training.fit import training_arguments, tune


class Killed(Exception):  # noqa: N818 - not an error
    """The end of an attempt without warning."""


class Ending:
    """A heartbeat that ends the attempt at a step, and keeps the progress."""

    def __init__(self, step: int | None, how: str | None) -> None:
        self.step, self.how = step, how
        self.progress: dict[str, Any] = {}

    def beat(self, *_: object, **progress: Any) -> None:
        """Keeps the progress; raises Killed at the step, if that is how the attempt ends."""
        left_out = {"quiet_seconds", "checkpoint"}
        self.progress |= {name: value for name, value in progress.items() if name not in left_out}
        if self.how == "killed" and progress.get("step") == self.step:
            raise Killed

    @property
    def leave_requested(self) -> bool:
        """Whether the current step is the last of a preempted attempt."""
        last = self.progress.get("step", 0)
        return self.how == "preempted" and self.step is not None and last >= self.step - 1


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
    heartbeat = Ending(step, how)
    config = context.config.model_copy(
        update={"run": run, "chosen": chosen, "attempt": attempt, "checkpoints": Checkpoints(keep=2)}
    )
    context = replace(
        context,
        config=config,
        chosen=chosen,
        heartbeat=heartbeat,
        dtypes=select_dtypes(chosen.model_dtype, context.dtypes.products, stage),
    )
    try:
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
    config = TrainConfig.read(paths.config)
    context = open_context(config, paths, Ending(None, None), training_task(config.run.task))
    outcomes = [train(context, json.loads(case)) for case in sys.argv[4:]]
    if context.gang.first:
        result.write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
    leave(0)
