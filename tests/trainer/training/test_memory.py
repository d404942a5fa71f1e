"""The estimate of models/memory.py against the tensors of real training steps."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from finetune_trainer.config import ComputeType, Method
from finetune_trainer.contract import Offload
from finetune_trainer.models.memory import BUCKET, Choices, ModelFacts, estimate_gpu, estimate_offloaded
from tests.trainer import forks

FULL, LORA = "Full", {"kind": "LoRA", "rank": 16}
CASES = {
    ("float32", 1): [[FULL, 1], [FULL, 3]],
    ("float32", 2): [[FULL, 0], [FULL, 1], [FULL, 2], [FULL, 3], [LORA, 0], [LORA, 3]],
    ("bfloat16", 1): [[FULL, 2]],
    ("bfloat16", 2): [[FULL, 1], [FULL, 2], [FULL, 3], [LORA, 2], [LORA, 3]],
}
"""By data type and processes: [method, ZeRO stage] ..."""
OFFLOADED: dict[tuple[ComputeType, int], list[tuple[int, Offload]]] = {
    ("float32", 2): [(2, "Optimizer")],
    ("bfloat16", 2): [(2, "Optimizer"), (3, "OptimizerAndParameters")],
}
"""By data type and processes: (ZeRO stage, offload) of Full."""


@pytest.mark.parametrize(("dtype", "processes"), CASES)
def test_the_tensors_of_a_training_step_are_as_large_as_estimated(
    tmp_path: Path, dtype: ComputeType, processes: int
) -> None:
    base = tmp_path / "base"
    forks.run("tests.trainer.programs.small_llama", str(base), dtype).check_returncode()
    cases: list[tuple[object, int, Offload]] = [
        *((method, stage, "None") for method, stage in CASES[dtype, processes]),
        *((FULL, stage, offload) for stage, offload in OFFLOADED.get((dtype, processes), [])),
    ]
    for (method, stage, offload), found in zip(cases, measure(base, cases, dtype, processes), strict=True):
        choices = Choices(
            zero_stage=stage,
            offload=offload,
            world=processes,
            processes_per_node=processes,
            model_dtype=dtype,
            products=dtype,
            rows=2,
            length=16,
        )
        facts, case = find_facts(base, json.dumps(method), dtype), f"{method} {stage} {offload}"
        memory = estimate_gpu(facts, choices)
        # On CPUs, offloaded tensors are in the same memory, and so is the buffer of the GPU for one gradient.
        persistent = memory.persistent + estimate_offloaded(facts, choices)
        assert found["micro-batch"][0] == pytest.approx(
            persistent, rel=0.02 if offload == "None" else 0.05
        ), case
        # Python can still hold a copy of the gradients that the ranks reduced.
        assert found["step"][0] <= (persistent + memory.buffers) * 1.02, case
        if offload != "None":
            continue
        if method == FULL and memory.step:
            assert found["update"][0] == pytest.approx(persistent + memory.step, rel=0.02), case
        else:
            assert found["update"][0] <= persistent * 1.02, case
        if method == FULL:
            assert found["backward"][1] == buckets(stage, dtype) <= memory.buffers, case


def measure(base: Path, cases: list[tuple[object, int, Offload]], dtype: str, processes: int) -> list[Any]:
    """Bytes by moment of each case, see programs/live_memory.py."""
    result = base.with_name("result.json")
    arguments = [json.dumps([str(base), *case, dtype]) for case in cases]
    done = forks.run("tests.trainer.programs.live_memory", str(result), *arguments, ranks=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[Any] = json.loads(result.read_text())
    return found


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
