"""The formulas of the memory estimate, in round numbers."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_trainer.models.memory import (
    BUCKET,
    GIB,
    LIVE,
    Activations,
    Choices,
    ModelFacts,
    estimate_gpu,
    estimate_host,
)
from finetune_trainer.models.memory_fit import EVERYTHING, Capacity, select_settings
from finetune_trainer.models.memory_text import format_plan

P, T, S, N = 8_000_000_000, 4_000_000_000, 1_000_000, 8
FACTS = ModelFacts(
    base_parameters=P,
    parameters=P,
    trained=T,
    small=S,
    embeddings=500_000_000,
    largest_layer=200_000_000,
    largest_tensor=500_000_000,
    largest_trained=10_000_000,
    hidden=4096,
    layers=32,
    vocabulary=128_000,
    kv_heads=8,
    outputs=128_000,
    can_checkpoint=True,
    logits_chunk=64 * 1024 * 1024,
    activations=Activations(token=6_400_000.0, pair=100.0),
)
CHOICES = Choices(
    zero_stage=2,
    offload="None",
    world=N,
    processes_per_node=4,
    model_dtype="bfloat16",
    products="bfloat16",
    rows=2,
    length=1000,
)
FLOAT32 = {"model_dtype": "float32", "products": "float32"}


@pytest.mark.parametrize(
    ("changes", "weights", "gradients", "optimizer"),
    [
        ({**FLOAT32, "zero_stage": 0}, 4 * P, 4 * T, 8 * T),
        ({**FLOAT32, "zero_stage": 1}, 4 * P, 4 * T, 12 * T // N),
        ({**FLOAT32, "zero_stage": 2}, 4 * P, 4 * T // N, 12 * T // N),
        ({**FLOAT32, "zero_stage": 3}, 4 * P // N + 4 * S, 4 * T // N, 12 * T // N),
        ({"zero_stage": 1}, 2 * P, 6 * T, 12 * T // N),
        ({"zero_stage": 2}, 2 * P, 4 * T // N, 12 * T // N),
        ({"zero_stage": 3}, 2 * P // N + 2 * S, 4 * T // N, 12 * T // N),
        ({"zero_stage": 2, "offload": "Optimizer"}, 2 * P, 0, 0),
        ({"zero_stage": 3, "offload": "OptimizerAndParameters"}, 2 * S, 0, 0),
        # DeepSpeed keeps bfloat16 weights from stage 1.
        ({"zero_stage": 0}, 4 * P, 4 * T, 8 * T),
    ],
)
def test_persistent_memory(changes: Any, weights: int, gradients: int, optimizer: int) -> None:
    memory = estimate_gpu(FACTS, replace(CHOICES, **changes))
    assert (memory.weights, memory.gradients, memory.optimizer) == (weights, gradients, optimizer)
    assert memory.persistent == weights + gradients + optimizer


@pytest.mark.parametrize(
    ("changes", "buffers"),
    [
        ({**FLOAT32, "zero_stage": 0}, 4 * 500_000_000),
        ({**FLOAT32, "zero_stage": 0, "world": 1}, 0),
        ({**FLOAT32, "zero_stage": 1}, 8 * BUCKET),
        ({"zero_stage": 1}, 4 * 500_000_000),
        ({"zero_stage": 2}, 4 * BUCKET + 4 * BUCKET),
        ({"zero_stage": 2, "world": 1}, 4 * BUCKET),
        ({"zero_stage": 3}, 4 * BUCKET),
    ],
)
def test_communication_buffers(changes: Any, buffers: int) -> None:
    assert estimate_gpu(FACTS, replace(CHOICES, **changes)).buffers == buffers


def test_a_gradient_larger_than_a_bucket_exists_twice() -> None:
    large = replace(FACTS, largest_trained=BUCKET + 1)
    assert estimate_gpu(large, CHOICES).buffers == 4 * BUCKET + 6 * (BUCKET + 1)


def test_gathered_parameters_are_limited() -> None:
    sharded = replace(CHOICES, zero_stage=3)
    assert estimate_gpu(FACTS, sharded).gathered == 2 * (LIVE + 2 * 500_000_000)
    assert estimate_gpu(FACTS, replace(sharded, live=1000)).gathered == 2 * (1000 + 2 * 500_000_000)
    small = replace(FACTS, parameters=1_000_000_000)
    assert estimate_gpu(small, sharded).gathered == 2 * (1_000_000_000 - S + 500_000_000)
    assert estimate_gpu(FACTS, CHOICES).gathered == 0


def test_activations_and_logits() -> None:
    memory = estimate_gpu(FACTS, CHOICES)
    assert memory.activations == 2 * (6_400_000 * 1000 + 100 * 1000**2)
    assert memory.logits == 2 * 2 * 2000 * 128_000 + 2 * FACTS.logits_chunk
    assert memory.copies == 0
    with_checkpoints = estimate_gpu(FACTS, replace(CHOICES, checkpointing=True))
    assert with_checkpoints.activations == 2 * 4096 * 32 * 2000 + memory.activations // 32
    autocast = estimate_gpu(FACTS, replace(CHOICES, model_dtype="float32"))
    assert autocast.copies == 2 * P
    assert autocast.weights == 4 * P


def test_the_peak_is_in_a_training_step_or_in_a_measurement() -> None:
    memory = estimate_gpu(FACTS, CHOICES)
    forward = memory.buffers + (memory.activations or 0) + memory.logits
    assert memory.training == memory.persistent + forward
    assert memory.total == memory.libraries + memory.training
    large_update = replace(memory, step=forward + 5)
    assert large_update.training == memory.persistent + forward + 5
    assert memory.evaluation == 2 * P + memory.logits
    unused = replace(memory, weights=0, gradients=0, optimizer=0, activations=0)
    assert unused.total == memory.libraries + memory.evaluation
    sharded = estimate_gpu(FACTS, replace(CHOICES, zero_stage=3))
    assert sharded.evaluation == 2 * P // N + 2 * S + sharded.gathered + sharded.logits


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"zero_stage": 2}, 0),
        ({"zero_stage": 3}, 4 * T // N),
        ({"zero_stage": 3, "world": 1}, 4 * 1_000_000_000),
        ({**FLOAT32, "zero_stage": 0}, 0),
        ({**FLOAT32, "zero_stage": 1}, 0),
        ({**FLOAT32, "zero_stage": 1, "world": 1}, 4 * T),
        ({**FLOAT32, "zero_stage": 2}, 4 * T // N),
        ({"zero_stage": 3, "offload": "Optimizer"}, 0),
    ],
)
def test_the_step_of_the_optimizer(changes: Any, step: int) -> None:
    assert estimate_gpu(FACTS, replace(CHOICES, **changes)).step == step


def test_host_memory() -> None:
    host = estimate_host(FACTS, CHOICES)
    assert host.train == 4 * 3 * GIB + 4 * 2 * P
    assert estimate_host(FACTS, replace(CHOICES, world=1)).train == 4 * 3 * GIB + 4 * 12 * T
    assert host.prepare == 3 * GIB // 2 + 4 * 300_000_000
    assert host.publish == 3 * GIB // 2 + 4 * 500_000_000
    # One file, and two copies of the embeddings of inputs and outputs.
    saving = 2_000_000_000 + 2 * 2 * 2 * 500_000_000
    assert host.merge == 3 * GIB // 2 + saving + 4 * 500_000_000
    assert estimate_host(FACTS, replace(CHOICES, zero_stage=3)).train == 4 * 3 * GIB + 4 * 12 * T // N
    float32 = estimate_host(FACTS, replace(CHOICES, model_dtype="float32"))
    assert float32.merge == host.merge + saving - 2_000_000_000
    small = estimate_host(replace(FACTS, base_parameters=1_000_000, embeddings=0, largest_layer=500), CHOICES)
    assert small.merge == 3 * GIB // 2 + 2 * 1_000_000 + 2 * 2 * 500 + 4 * 500_000_000
    offloaded = estimate_host(
        FACTS, replace(CHOICES, zero_stage=3, offload="OptimizerAndParameters", processes_per_node=1, world=1)
    )
    assert offloaded.train == 3 * GIB + 20 * T + 2 * P + 12 * T


def test_without_gpus_a_pod_needs_the_memory_of_its_processes() -> None:
    choices = replace(CHOICES, gpus=False)
    assert estimate_gpu(FACTS, choices).libraries == GIB
    assert estimate_host(FACTS, choices).train == 4 * estimate_gpu(FACTS, choices).total
    assert estimate_gpu(FACTS, choices).checkpoint == 12 * T // N
    assert estimate_gpu(FACTS, replace(choices, zero_stage=0)).checkpoint == 12 * T


def test_unknown_activations_are_named() -> None:
    unknown = replace(FACTS, activations=None)
    fit = select_settings(unknown, CHOICES, EVERYTHING, Capacity(80 * GIB))
    text = format_plan(unknown, CHOICES, fit, 80 * GIB)
    (line,) = (line for line in text.splitlines() if "activations" in line and "sum" not in line)
    assert line.split() == ["activations", "unknown"]
    assert "fits without activations, which are unknown" in text


def test_quantized_weights_have_half_a_byte_and_one_dequantized_layer() -> None:
    quantized = replace(FACTS, trained=10_000_000, quantized=7_000_000_000, largest_quantized=60_000_000)
    plain = replace(quantized, quantized=0, largest_quantized=0)
    for stage, share in ((2, 1), (3, N)):
        choices = replace(CHOICES, zero_stage=stage)
        found, whole = estimate_gpu(quantized, choices), estimate_gpu(plain, choices)
        saved = (2 - 0.515869) * 7_000_000_000 / share
        assert whole.weights - found.weights == pytest.approx(saved, rel=1e-5)
        assert found.copies == 2 * 60_000_000
        assert found.evaluation == whole.evaluation, "the models are measured without quantization"
