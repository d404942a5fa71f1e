"""Times optimizer steps of the product's loop, and compares the peak memory with the estimate."""

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.loop_inputs import Calm, random_rows
from finetune_trainer.config import Lora, Training
from finetune_trainer.contract import Chosen
from finetune_trainer.data.batches import Layout
from finetune_trainer.data.shards import Prepared
from finetune_trainer.models import methods
from finetune_trainer.models.flops import flops_per_token
from finetune_trainer.models.memory import Choices, GpuMemory, estimate_gpu
from finetune_trainer.models.packing import Packing
from finetune_trainer.stages.measure_model import measure_model
from finetune_trainer.tasks.registry import model_of
from finetune_trainer.training import loop, peak_memory
from finetune_trainer.training.arguments import arguments
from finetune_trainer.training.distributed import Gang
from finetune_trainer.training.loader import RankBatches

_WARM_UP = 2
"""Steps that are not timed: the first steps allocate memory and select kernels."""
_METHOD = Lora(rank=16)


@dataclass(frozen=True)
class Measured:
    """The result of `measure`."""

    flops_per_token: int
    """See `finetune_trainer.models.flops`: about 4 for each parameter."""
    tokens_per_second: float
    seconds: float
    """Median time of a step."""
    peak: int
    """Greatest memory of the training steps, in bytes: allocated memory of the GPU, or resident memory."""
    estimate: GpuMemory

    def utilisation(self, peak_flops: float) -> float:
        """The model FLOPs utilisation (MFU, PaLM, arXiv 2204.02311, appendix B), from 0 to 1.

        Args:
            peak_flops: FLOPs per second of the GPU for dense bfloat16 matrix products.
        """
        return self.flops_per_token * self.tokens_per_second / peak_flops


def measure(gang: Gang, config: dict[str, Any], tokens: int, steps: int, *, checkpointing: bool) -> Measured:
    """Trains a LoRA adapter on one row of random tokens in each step.

    Args:
        gang: the process group of one process.
        config: config.json of the model, which has random bfloat16 weights.
        tokens: tokens of each row.
        steps: number of timed steps.
        checkpointing: whether to use activation checkpointing.
    """
    count = steps + _WARM_UP
    gpus = gang.device.type == "cuda"
    task, taken = model_of("TextGeneration"), list[loop.Step]()
    choices = Choices(
        zero_stage=2,
        offload="None",
        world=1,
        processes_per_node=1,
        model_dtype="bfloat16",
        products="bfloat16",
        rows=1,
        length=tokens,
        checkpointing=checkpointing,
        gpus=gpus,
    )
    chosen = Chosen(
        epochs=1,
        batch_size=1,
        micro_batch_tokens=tokens,
        world_size=1,
        learning_rate=1e-4,
        max_length=tokens,
        zero_stage=2,
        total_steps=count,
        model_dtype="bfloat16",
        activation_checkpointing=checkpointing,
    )
    rows, training = random_rows(count, tokens, config["vocab_size"]), Training()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        facts = measure_model(Path(folder), "TextGeneration", _METHOD, "bfloat16", tokens)
        args = arguments(chosen, training, choices.dtypes, folder=folder, gpus=gpus, steps=count)
        with gang.device:
            build: Any = AutoModelForCausalLM.from_config
            base = build(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16, attn_implementation="sdpa")
        model = methods.apply_method(_METHOD, base, (), 0)
        run = loop.Loop(
            gang=gang,
            batches=RankBatches(
                rows,
                Layout.of(chosen),
                rank=0,
                seed=0,
                collate=partial(task.collate, pad_id=2, packing=Packing(pair=0, head=0)),
                device=gang.device,
            ),
            losses=task.loss_function(training, Prepared(rows, rows, rows, ()), gang.device),
            forward=task.FORWARD,
            clip=0.0,
            heartbeat=Calm(),
            model=model,
            args=args,
        )
        run.add_callback(loop.StepEnd(run, taken.append))
        peak_memory.reset(gang.device)
        run.train()
    seconds = float(np.median([step.seconds for step in taken[_WARM_UP:]]))
    return Measured(
        flops_per_token(model),
        tokens / seconds,
        seconds,
        peak_memory.measure(gang.device),
        estimate_gpu(facts, choices),
    )
