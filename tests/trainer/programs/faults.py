"""Run by torchrun on two ranks: faults in the real loop, one by one; each rank writes how each ended.

Arguments: folder of the base model, folder for the outcomes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.data.batches import epoch_batches
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.collate import IGNORE_INDEX, lengths
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.pod.rank import leave
from finetune_trainer.tasks.text_classification import model as task
from finetune_trainer.training import loop
from finetune_trainer.training.distributed import join_gang
from tests.trainer.programs import truth

LOSS, GRADIENT, LEAVE = "loss", "gradient", "leave"
usual_losses = task.losses
fault = ""
running: list["Watched"] = []


class Watched(loop.Loop):
    """The loop, whose gradient explodes in step 2 if that is the fault."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        running.append(self)

    @property
    def gradient_norm(self) -> float:
        """Of the last step."""
        second = self.state.global_step == 2
        return float("inf") if fault == GRADIENT and second else super().gradient_norm


class Asked:
    """A heartbeat; for the fault `leave`, one of the two ranks has the request to end in step 2."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    @property
    def leave_requested(self) -> bool:
        """Whether this is that rank and that step."""
        return fault == LEAVE and self.rank == 1 and running[-1].state.global_step == 1

    def beat(self, *_args: object, **_progress: object) -> None:
        """Nothing."""


def main() -> None:
    """Runs into each fault with the same gang."""
    global fault
    base, folder = Path(sys.argv[1]), Path(sys.argv[2])
    silence_libraries()
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    split = truth.CLASSIFICATION.rows
    poisoned = int(epoch_batches(lengths(split), truth.BATCH, seed=3, epoch=0)[1][2])

    def losses(outputs: Any, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        # Only the rank that holds the row sees its loss.
        usual, numbers = usual_losses(outputs, labels), running[-1].target_rows[labels != IGNORE_INDEX]
        return torch.where(numbers == poisoned, torch.nan, usual) if fault == LOSS else usual

    loop.Loop, task.losses = Watched, losses
    outcomes: dict[str, Any] = {"place": "{}:{}".format(*split.location(poisoned))}
    for fault in (LOSS, GRADIENT, LEAVE):
        try:
            truth.steps(gang, truth.CLASSIFICATION, base, 2, 2, 2, Asked(gang.rank))
        except StageFailure as failure:
            outcomes[fault] = [failure.failure, failure.reason, failure.message]
    (folder / f"{gang.rank}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
    leave(0)
