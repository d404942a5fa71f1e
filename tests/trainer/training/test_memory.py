"""The estimate of models/memory.py against the tensors of real training steps."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from finetune_trainer.config import ComputeType, Method
from finetune_trainer.models.memory import BUCKET, Choices, ModelFacts, estimate_gpu
from tests.trainer import forks

FULL, LORA = "Full", {"kind": "LoRA", "rank": 16}
CASES = {
    ("float32", 1): [[FULL, 1], [FULL, 3]],
    ("float32", 2): [[FULL, 0], [FULL, 1], [FULL, 2], [FULL, 3], [LORA, 0], [LORA, 3]],
    ("bfloat16", 1): [[FULL, 2]],
    ("bfloat16", 2): [[FULL, 1], [FULL, 2], [FULL, 3], [LORA, 2], [LORA, 3]],
}
"""By data type and processes: [method, ZeRO stage] ..."""


@pytest.mark.parametrize(("dtype", "processes"), CASES)
def test_the_tensors_of_a_training_step_are_as_large_as_estimated(
    tmp_path: Path, dtype: ComputeType, processes: int
) -> None:
    base, result = tmp_path / "base", tmp_path / "result.json"
    forks.run("tests.trainer.programs.small_llama", str(base), dtype).check_returncode()
    cases = CASES[dtype, processes]
    arguments = [json.dumps([str(base), method, stage, dtype]) for method, stage in cases]
    done = forks.run("tests.trainer.programs.live_memory", str(result), *arguments, ranks=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    for (method, stage), measured in zip(cases, json.loads(result.read_text()), strict=True):
        choices = Choices(
            zero_stage=stage,
            offload="None",
            world=processes,
            processes_per_node=processes,
            model_dtype=dtype,
            products=dtype,
            rows=2,
            length=16,
        )
        memory = estimate_gpu(find_facts(base, json.dumps(method), dtype), choices)
        case = f"{method} {stage}"
        assert measured["micro-batch"][0] == pytest.approx(memory.persistent, rel=0.02), case
        # Python can still hold a copy of the gradients that the ranks reduced.
        assert measured["step"][0] <= (memory.persistent + memory.buffers) * 1.02, case
        if method == FULL and memory.step:
            assert measured["update"][0] == pytest.approx(memory.persistent + memory.step, rel=0.02), case
        else:
            assert measured["update"][0] <= memory.persistent * 1.02, case
        if method == FULL:
            assert measured["backward"][1] == buckets(stage, dtype) <= memory.buffers, case


def buckets(stage: int, dtype: ComputeType) -> int:
    if stage == 0 or (stage == 1 and dtype == "bfloat16"):
        return 0
    return 4 * BUCKET if stage == 3 or dtype == "bfloat16" else 8 * BUCKET


@cache
def find_facts(base: Path, method: str, dtype: ComputeType) -> ModelFacts:
    from finetune_trainer.models import model_size  # noqa: PLC0415 - torch
    from finetune_trainer.models.weights import torch_dtype  # noqa: PLC0415
    from finetune_trainer.tasks.registry import model_of, report_of  # noqa: PLC0415

    def fail(*_: Any) -> Any:
        raise NotImplementedError

    return model_size.find_facts(
        base,
        report_of("TextGeneration").AUTO_CLASS,
        model_of("TextGeneration").head,
        TypeAdapter[Method](Method).validate_json(method),
        torch_dtype(dtype),
        fail,
        16,
    )
