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
from finetune_trainer.models.collate import lengths
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.pod.rank import leave
from finetune_trainer.training.distributed import join_gang
from finetune_trainer.training.loader import MicroBatch
from tests.trainer.programs import truth

LOSS, GRADIENT = "loss", "gradient"
fault = ""


class Faulty(truth.Watched):
    """The loop with the fault in step 2."""

    poisoned: int
    """Number of the row whose loss is not a number."""

    @property
    def gradient_norm(self) -> float:
        """Of the last step."""
        second = self.state.global_step == 2
        return float("inf") if fault == GRADIENT and second else super().gradient_norm

    def compute_losses(self, model: Any, micro_batch: MicroBatch) -> torch.Tensor:
        """Not a number for one row if that is the fault; only the rank that holds the row sees its loss."""
        losses = super().compute_losses(model, micro_batch)
        bad = torch.from_numpy(micro_batch.label_rows) == self.poisoned
        return torch.where(bad, torch.nan, losses) if fault == LOSS else losses


class Noting(truth.Calm):
    """Keeps the last step that it was told."""

    step: object = None

    def beat(self, *_args: object, **progress: object) -> None:
        """Keeps the step."""
        self.step = progress.get("step", self.step)


def main() -> None:
    """Runs into each fault with the same gang."""
    global fault
    base, folder = Path(sys.argv[1]), Path(sys.argv[2])
    silence_libraries()
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    split = truth.CLASSIFICATION.rows
    Faulty.poisoned = int(epoch_batches(lengths(split), truth.BATCH, seed=3, epoch=0)[1][2])
    truth.Watched = Faulty  # type: ignore[misc]
    outcomes: dict[str, Any] = {"place": "{}:{}".format(*split.location(Faulty.poisoned))}
    for fault in (LOSS, GRADIENT):
        heartbeat = Noting()
        try:
            truth.steps(gang, truth.CLASSIFICATION, base, 2, 2, heartbeat=heartbeat)
        except StageFailure as failure:
            outcomes[fault] = [failure.failure, failure.reason, failure.message, heartbeat.step]
    (folder / f"{gang.rank}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
    leave(0)
