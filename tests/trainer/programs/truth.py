"""Run by torchrun: steps of the real loop at fixed weights, for many ways to split one global batch.

Arguments: folder of the base model, JSON list of [zero stage, micro-batch, accumulation], file for the figures.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

ROWS, CLASSES, BATCH, VOCABULARY = 21, 3, 8, 50


def synthetic_rows():
    """21 rows of 1 to 14 tokens: two full batches of 8 and a short one of 5."""
    from finetune_trainer.data import Split

    random = np.random.default_rng(7)
    counts = random.integers(1, 15, ROWS)
    return Split(
        tokens=random.integers(1, VOCABULARY, counts.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        labels=(np.arange(ROWS) % CLASSES).astype(np.int32),
        rows=(np.arange(ROWS) + 100).astype(np.int64),
    )


class Calm:
    """A pulse that nobody listens to."""

    leave_requested = False

    def beat(self, *_args, **_progress):
        pass


def steps(gang, base, zero_stage, micro_batch, accumulation):
    """Loss and gradient norm of each step of one epoch, at a learning rate that moves nothing."""
    import torch
    from transformers import set_seed

    from finetune_trainer.batches import Layout, steps_per_epoch
    from finetune_trainer.config import Training
    from finetune_trainer.contract import Chosen
    from finetune_trainer.loop import Edge, Loop, RankBatches, arguments
    from finetune_trainer.model import load_classifier

    split = synthetic_rows()
    total = steps_per_epoch(ROWS, BATCH)
    chosen = Chosen(
        epochs=1,
        batch_size=BATCH,
        micro_batch_size=micro_batch,
        accumulation_steps=accumulation,
        world_size=gang.world,
        learning_rate=1e-30,
        max_length=16,
        zero_stage=zero_stage,
        total_steps=total,
    )
    training = Training(weight_decay=0.0, max_gradient_norm=1e9, warmup_fraction=0.0)
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(chosen, training, "float32", folder=folder, gpus=False, steps=total)
        set_seed(1)
        model = load_classifier(base, [str(number) for number in range(CLASSES)])
        loop = Loop(
            gang=gang,
            batches=RankBatches(split, Layout.of(chosen), rank=gang.rank, seed=3, pad_id=0),
            clip=training.max_gradient_norm if zero_stage == 0 else 0.0,
            pulse=Calm(),
            model=model,
            args=args,
        )
        taken = []
        loop.add_callback(Edge(loop, taken.append))
        loop.train()
    del loop, model, args
    torch.distributed.barrier()
    return [(step.loss, step.gradient_norm, step.rows) for step in taken]


def main():
    from finetune_trainer.gang import meet

    base, cases, figures = Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
    gang = meet(gpus=False, startup_seconds=60, hang_seconds=60)
    results = {json.dumps(case): steps(gang, base, *case) for case in cases}
    if gang.first:
        figures.write_text(json.dumps(results))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
