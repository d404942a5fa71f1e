"""Run by torchrun: a model that is sharded over two ranks (ZeRO-3) is evaluated, and trained afterwards.

Arguments: folder of the base model, data type of the base model and of matrix products, result file.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import torch
from pydantic import TypeAdapter

from finetune_trainer.config import ComputeType, Lora, Method
from finetune_trainer.models.dtypes import select_dtypes
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.models.memory import LIVE
from finetune_trainer.models.weights import is_sharded
from finetune_trainer.pod.rank import leave
from finetune_trainer.tasks.text_generation.generation import generate
from finetune_trainer.tasks.text_generation.language_model import packing_of, supports_packing
from finetune_trainer.training import deepspeed_config
from finetune_trainer.training.distributed import join_gang
from finetune_trainer.training.evaluation_engine import ready
from finetune_trainer.training.freed_models import free_models
from finetune_trainer.training.loop import Loop
from tests.trainer.programs import truth
from tests.trainer.training.contexts import context_with

METHODS: dict[str, Method] = {"Full": "Full", "LoRA": Lora(rank=4, alpha=8)}
ROWS = range(6)
PROMPTS, NEW_TOKENS = 4, 5


def main() -> None:
    """Compares each method with and without an evaluation before training."""
    base, dtype = Path(sys.argv[1]), TypeAdapter[ComputeType](ComputeType).validate_python(sys.argv[2])
    silence_libraries()
    # DeepSpeed would keep the parameters of a tiny model on every rank.
    deepspeed_config.PERSISTENT = 0  # type: ignore[attr-defined]
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    dtypes = select_dtypes(dtype, dtype, 3)
    chosen = SimpleNamespace(offload="None", gathered_parameters=LIVE, world_size=gang.world)
    context = context_with(gang=gang, dtypes=dtypes, chosen=chosen)
    subject = truth.PADDED

    def answers(model: Any) -> dict[str, Any]:
        inputs = subject.model.collate(subject.rows, ROWS, 0, None)
        prompts = [inputs["input_ids"][row, : row + 1].numpy() for row in range(PROMPTS)]
        passes: list[int] = []
        with torch.no_grad():
            hook = model.get_input_embeddings().register_forward_hook(lambda *_: passes.append(1))
            generated = generate(model, prompts, [], 0, NEW_TOKENS)
            hook.remove()
            return {
                "predictions": subject.model.predict(model, inputs).tolist(),
                "generated": [ids.tolist() for ids in generated],
                "passes": len(passes),
                "packing": supports_packing(model) and packing_of(model).model_dump(),
            }

    whole = subject.model.load(base, subject.prepared, context.weights_dtype).eval()
    found: dict[str, Any] = {"whole": answers(whole)}
    models: list[ref[torch.nn.Module]] = []
    for name, method in METHODS.items():
        for evaluated in (False, True):
            case: dict[str, Any] = {}

            def evaluate(model: Any, case: dict[str, Any] = case) -> None:
                case["elements"] = [_count_elements(model)]
                models.append(ref(model))
                with ready(context, model) as sharded:
                    case["before"] = answers(sharded)
                case["elements"].append(_count_elements(model))
                case["sharded"] = is_sharded(model)

            def without_adapter(loop: Loop, case: dict[str, Any] = case) -> None:
                model: Any = loop.model
                model.eval()
                with model.disable_adapter():
                    case["without adapter"] = answers(model)

            case["steps"] = truth.steps(
                gang,
                subject,
                base,
                3,
                2,
                heartbeat=truth.Calm(),
                how=method,
                precision=dtype,
                base_dtype=dtype,
                loaded=evaluate if evaluated else lambda _: None,
                after=without_adapter if name == "LoRA" else lambda _: None,
            )
            found[f"{name}, evaluated: {evaluated}"] = case
    free_models(gang.device)
    found["freed"] = [model() is None for model in models]
    if gang.first:
        Path(sys.argv[3]).write_text(json.dumps(found))


def _count_elements(model: torch.nn.Module) -> int:
    """Returns the number of elements of all parameters in the memory of this rank."""
    shards = (getattr(weight, "ds_tensor", weight) for weight in model.parameters())
    return sum(shard.numel() for shard in shards) + sum(
        weight.numel() for weight in model.parameters() if hasattr(weight, "ds_tensor")
    )


if __name__ == "__main__":
    main()
    leave(0)
