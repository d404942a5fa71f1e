"""Run by torchrun: the share of bfloat16 weights, and of their float32 copies, that small updates change.

Arguments: folder of the base model, result file.
"""

import json
import sys
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor

from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.weights import whole_tensors
from finetune_trainer.pod.rank import leave
from finetune_trainer.training.distributed import join_gang
from finetune_trainer.training.loop import Loop
from tests.trainer.programs import truth

LEARNING_RATE = 1e-6
"""The relative distance of two bfloat16 numbers is 4e-3, and the weights are about 0.02."""


def main() -> None:
    """Measures each ZeRO stage in this one gang."""
    base, result = Path(sys.argv[1]), Path(sys.argv[2])
    silence_libraries()
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    before = dict(whole_tensors(truth.CLASSIFICATION.load(base, "Full", torch.bfloat16)))
    shares: dict[str, dict[str, float]] = {}
    for stage in (1, 2, 3):

        def measure(loop: Loop, stage: int = stage) -> None:
            weights = loop.model.named_parameters()
            copies = {name: safe_get_full_fp32_param(weight) for name, weight in weights}
            shares[str(stage)] = {
                "float32": _changed(before, copies),
                "bfloat16": _changed(before, dict(whole_tensors(loop.model))),
            }

        truth.steps(
            gang,
            truth.CLASSIFICATION,
            base,
            stage,
            2,
            heartbeat=truth.Calm(),
            learning_rate=LEARNING_RATE,
            precision="bfloat16",
            base_dtype="bfloat16",
            after=measure,
        )
    if gang.first:
        result.write_text(json.dumps(shares))


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Returns the share of changed elements of the weights that get a gradient."""
    pairs = [
        (value, after[name]) for name, value in before.items() if name in after and value.is_floating_point()
    ]
    changed = sum(int((one.float() != other.float()).sum()) for one, other in pairs)
    return changed / sum(value.numel() for value, _ in pairs)


if __name__ == "__main__":
    main()
    leave(0)
