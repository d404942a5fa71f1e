"""Run by torchrun: trains two optimizer steps, and measures the peak of the resident memory of each rank.

Arguments: the case, the folder of the base model, and the result file.
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from transformers import set_seed

from bench.loop_inputs import Calm, random_rows
from bench.memory.case import Case
from finetune_trainer.config import Training
from finetune_trainer.contract import Chosen
from finetune_trainer.data.batches import Layout
from finetune_trainer.data.shards import Prepared
from finetune_trainer.models import methods
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.packing import Packing
from finetune_trainer.models.quantized_layers import quantize_if_requested
from finetune_trainer.pod.rank import leave
from finetune_trainer.tasks.registry import model_of
from finetune_trainer.training import loop, peak_memory
from finetune_trainer.training.arguments import arguments
from finetune_trainer.training.deepspeed_config import own_clip
from finetune_trainer.training.distributed import gather_objects, join_gang
from finetune_trainer.training.loader import RankBatches

_STEPS, _ACCUMULATION = 2, 2


def main(case: Case, base: Path, result: Path) -> None:
    """Trains, and writes the peak and the resident memory before the model was loaded, in bytes."""
    silence_libraries()
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=600)
    task, dtypes = model_of("TextGeneration"), case.choices.dtypes
    count = case.rows * _ACCUMULATION * case.world * _STEPS
    rows = random_rows(count, case.length, vocabulary=1000)
    chosen = Chosen(
        epochs=1,
        batch_size=case.rows * _ACCUMULATION * case.world,
        micro_batch_size=case.rows,
        accumulation_steps=_ACCUMULATION,
        world_size=case.world,
        learning_rate=1e-4,
        max_length=case.length,
        zero_stage=case.zero_stage,
        total_steps=_STEPS,
        activation_checkpointing=case.checkpointing,
    )
    training = Training()
    with tempfile.TemporaryDirectory() as folder:
        # Before the model: see arguments.
        args = arguments(chosen, training, dtypes, folder=folder, gpus=False, steps=_STEPS)
        peak_memory.reset(gang.device)
        libraries = peak_memory.measure(gang.device)
        prepared = Prepared(rows, rows, rows, ())
        loaded = task.load(base, prepared, getattr(torch, dtypes.weights))
        set_seed(0)
        model = methods.apply_method(case.spec, loaded, (), 0)
        quantize_if_requested(case.spec, model, gang.device)
        run = loop.Loop(
            gang=gang,
            batches=RankBatches(
                rows,
                Layout.of(chosen),
                rank=gang.rank,
                seed=0,
                collate=partial(task.collate, pad_id=0, packing=Packing(pair=0, head=0)),
            ),
            losses=task.loss_function(training, prepared, gang.device),
            forward=task.FORWARD,
            clip=own_clip(case.zero_stage, training.max_gradient_norm),
            heartbeat=Calm(),
            model=model,
            args=args,
        )
        run.add_callback(loop.StepEnd(run, lambda _: None))
        peak_memory.reset(gang.device)
        run.train()
        found = gather_objects(gang, (peak_memory.measure(gang.device), libraries))
    if gang.first:
        peak, before = (max(values) for values in zip(*found, strict=True))
        result.write_text(json.dumps({"peak": peak, "libraries": before}))


if __name__ == "__main__":
    main(Case.parse(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
    leave(0)
