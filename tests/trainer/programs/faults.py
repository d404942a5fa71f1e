"""Run by torchrun on two ranks: faults in the real loop, one after the other; each rank writes how each ended.

Arguments: folder of the base model, folder for the outcomes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import truth

LOSS, GRADIENT, LEAVE = "loss", "gradient", "leave"


class Asked:
    """A pulse whose rank may be asked to leave."""

    def __init__(self, asked):
        self.asked = asked

    @property
    def leave_requested(self):
        return self.asked()

    def beat(self, *_args, **_progress):
        pass


def main():
    import torch

    from finetune_trainer import loop
    from finetune_trainer.batches import epoch_batches
    from finetune_trainer.failures import StageFailure
    from finetune_trainer.gang import meet
    from finetune_trainer.inputs import lengths

    base, folder = Path(sys.argv[1]), Path(sys.argv[2])
    gang = meet(gpus=False, startup_seconds=60, hang_seconds=60)
    split = truth.synthetic_rows()
    second = epoch_batches(lengths(split), truth.BATCH, seed=3, epoch=0)[1]
    poisoned = int(second[2])
    usual_loss, usual_loop = loop.cross_entropy, loop.Loop
    fault, running = "", None

    class Watched(usual_loop):
        def __init__(self, **kwargs):
            nonlocal running
            super().__init__(**kwargs)
            running = self

        @property
        def gradient_norm(self):
            return np.inf if fault == GRADIENT and self.state.global_step == 2 else super().gradient_norm

    def cross_entropy(logits, labels, **options):
        # Only the rank that holds the row sees its loss.
        losses = usual_loss(logits, labels, **options)
        return (
            torch.where(running.row_numbers[-1] == poisoned, torch.nan, losses) if fault == LOSS else losses
        )

    loop.Loop, loop.cross_entropy = Watched, cross_entropy
    # Only one rank is asked, in the second step.
    truth.Calm = lambda: Asked(lambda: fault == LEAVE and gang.rank == 1 and running.state.global_step == 1)
    outcomes = {"line": int(split.rows[poisoned])}
    for fault in (LOSS, GRADIENT, LEAVE):
        try:
            truth.steps(gang, base, 2, 2, 2)
        except StageFailure as failure:
            outcomes[fault] = [failure.failure, failure.reason, failure.message]
    (folder / f"{gang.rank}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
