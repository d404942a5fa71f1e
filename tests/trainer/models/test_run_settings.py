"""All settings of a run: the `Auto` values by rule, changed so that the job fits in memory."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_trainer.config import Lora, MemoryLimits, Method, Run
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.memory import GIB, Activations, ModelFacts
from finetune_trainer.models.plan import BaseFacts
from finetune_trainer.models.run_settings import RunSettings, choose_settings
from finetune_trainer.tasks.text_generation.data import AUTO_LIMITS
from tests.trainer.models import test_plan

LLAMA_8B = ModelFacts(
    base_parameters=8_030_261_248,
    parameters=8_030_261_248,
    trained=8_030_261_248,
    small=266_240,
    embeddings=525_336_576,
    largest_layer=218_112_000,
    largest_tensor=525_336_576,
    largest_trained=525_336_576,
    hidden=4096,
    layers=32,
    vocabulary=128_256,
    kv_heads=8,
    outputs=128_256,
    can_checkpoint=True,
    logits_chunk=64 * 1024 * 1024,
    activations=Activations(token=7_000_000.0, pair=0.0),
)
ADAPTER = 41_943_040
LORA_8B = replace(
    LLAMA_8B, parameters=LLAMA_8B.parameters + ADAPTER, trained=ADAPTER, largest_trained=229_376
)


def settings(
    facts: ModelFacts | None,
    method: Method,
    gpu: int | None,
    *,
    pod: int | None = None,
    gpus: int = 1,
    nodes: int = 1,
    least: int | None = None,
    spec: dict[str, Any] | None = None,
    **training: object,
) -> RunSettings:
    world = {"nodes": nodes, "gpus_per_node": gpus, "processes_per_node": max(gpus, 1)}
    update = {"method": method, "world": world}
    given = {"offload": "Auto"} | update | (spec or {})
    run = Run.model_validate(test_plan.run(**training).model_dump() | given)
    base = BaseFacts(8_030_261_248, 8192, "bfloat16")
    limits = MemoryLimits(gpu=gpu and gpu * GIB, train=pod and pod * GIB)
    return choose_settings(run, limits, 10_000, 1000, base, AUTO_LIMITS, facts, min_nodes=least)


def test_without_known_memory_the_rules_decide() -> None:
    chosen = settings(LLAMA_8B, "Full", None).chosen
    assert (chosen.zero_stage, chosen.offload, chosen.activation_checkpointing) == (2, "None", True)
    assert settings(None, "Full", 80).memory is None


def test_the_estimate_is_a_part_of_the_settings() -> None:
    memory = settings(LORA_8B, Lora(), 80).memory
    assert memory
    assert memory.process > 16 * 10**9
    assert memory.train > 16 * 10**9
    assert memory.publish < 4 * GIB
    merged = settings(LORA_8B, Lora(merge=True), 80).memory
    assert merged
    assert merged.publish > memory.publish


def test_settings_change_so_that_the_job_fits() -> None:
    assert settings(LORA_8B, Lora(), 80).chosen.zero_stage == 2
    chosen = settings(LLAMA_8B, "Full", 80).chosen
    assert chosen.offload == "Optimizer"
    two = settings(LLAMA_8B, "Full", 60, gpus=4).chosen
    assert (two.zero_stage, two.offload) == (2, "None")
    assert settings(LLAMA_8B, "Full", 48, gpus=4).chosen.zero_stage == 3


def test_a_smaller_micro_batch_is_a_smaller_budget() -> None:
    roomy = settings(LORA_8B, Lora(), 80, activationCheckpointing="Disabled").chosen
    tight = settings(LORA_8B, Lora(), 28, activationCheckpointing="Disabled").chosen
    assert (roomy.micro_batch_tokens, tight.micro_batch_tokens) == (4096, 1000)
    assert tight.batch_size == roomy.batch_size
    fixed = settings(LORA_8B, Lora(), 28, microBatchSize=8, activationCheckpointing="Disabled").chosen
    assert (fixed.micro_batch_size, fixed.micro_batch_tokens) == (8, None)


def test_a_job_that_cannot_fit_is_refused_with_the_way_out() -> None:
    with pytest.raises(StageFailure) as failed:
        settings(LLAMA_8B, "Full", 80, spec={"offload": "None"})
    assert failed.value.reason == "DoesNotFit"
    assert failed.value.message == (
        "Training needs more memory than a GPU has: 134.6 GiB (weights 15.0, gradients 29.9, optimizer state"
        " 89.7) and memory for activations, of 80.0 GiB, with deepspeed.zeroStage 2 and 1 processes."
    )
    assert "deepspeed.offload Optimizer" in failed.value.hint
    with pytest.raises(StageFailure) as failed:
        settings(LLAMA_8B, "Full", 29, spec={"offload": "None", "zero_stage": 2}, gpus=8)
    assert "deepspeed.zeroStage 3" in failed.value.hint


def test_quantized_weights_must_fit_whole_while_the_models_are_measured() -> None:
    quantized = replace(LORA_8B, quantized=6_979_321_856, largest_quantized=58_720_256)
    spec: dict[str, Any] = {"offload": "None", "zero_stage": 2}
    memory = settings(quantized, Lora(quantization="NF4"), 20, spec=spec).memory
    assert memory
    assert 16 * 10**9 < memory.process < 20 * GIB
    with pytest.raises(StageFailure) as failed:
        settings(quantized, Lora(quantization="NF4"), 15, spec=spec)
    assert failed.value.reason == "DoesNotFit"
    assert failed.value.message == (
        "Base model and tuned model are measured without quantization, which needs 15.6 GiB, and a GPU has"
        " 15.0 GiB, with deepspeed.zeroStage 2 and 1 processes."
    )
    assert "deepspeed.zeroStage 3" in failed.value.hint


def test_the_way_out_can_be_more_processes_or_another_method() -> None:
    def hint(method: Method, facts: ModelFacts) -> str:
        with pytest.raises(StageFailure) as failed:
            settings(facts, method, None, pod=9, gpus=0)
        return failed.value.hint

    assert "processes with deepspeed.zeroStage 3 would fit" in hint(Lora(), LORA_8B)
    huge = replace(LLAMA_8B, trained=900 * 10**9, parameters=900 * 10**9)
    assert hint("Full", huge) == "Use method.type LoRA, a smaller model, or more memory."
    assert hint(Lora(), huge) == "Use a smaller model, or more memory."


def test_an_estimate_above_the_memory_is_said() -> None:
    tight = settings(LORA_8B, Lora(), 18, spec={"offload": "None", "zero_stage": 2})
    assert tight.excess.startswith("Training may run out of memory: the estimate is ")
    assert tight.excess.endswith("GiB, and a GPU has 18.0 GiB")
    pod = settings(LORA_8B, Lora(), 80, pod=2)
    assert pod.excess.endswith("and a pod may have 2.0 GiB")
    assert settings(LORA_8B, Lora(), 80).excess == ""


def test_a_pod_that_cannot_hold_the_model_loads_the_model_in_shards() -> None:
    tight = settings(LORA_8B, Lora(), 80, pod=10)
    assert (tight.chosen.zero_stage, tight.excess) == (3, "")


def test_without_gpus_the_memory_of_the_pod_decides() -> None:
    roomy = settings(LORA_8B, Lora(), None, gpus=0).chosen
    tight = settings(LORA_8B, Lora(), None, gpus=0, pod=60, precision="BFloat16").chosen
    assert roomy.offload == tight.offload == "None"
    assert roomy.micro_batch_tokens == tight.micro_batch_tokens == 4096


def test_settings_fit_with_the_smallest_gang_too() -> None:
    fixed = settings(LLAMA_8B, "Full", 48, gpus=4, nodes=4)
    elastic = settings(LLAMA_8B, "Full", 48, gpus=4, nodes=4, least=1)
    assert (fixed.chosen.zero_stage, elastic.chosen.zero_stage) == (2, 3)
    assert elastic.chosen.world_size == fixed.chosen.world_size == 16
    assert elastic.chosen.batch_size == fixed.chosen.batch_size
    with pytest.raises(StageFailure) as failed:
        settings(LLAMA_8B, "Full", 29, gpus=8, nodes=4, least=1, spec={"offload": "None", "zero_stage": 2})
    assert failed.value.reason == "DoesNotFit"
    assert "with deepspeed.zeroStage 2 and 8 processes" in failed.value.message


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_estimate_is_that_of_the_greediest_size_of_the_gang(stage: int) -> None:
    """Small models have greater buffers for communication than optimizer states, which one process lacks."""
    small = replace(LLAMA_8B, parameters=10**7, trained=10**7, largest_trained=10**6, largest_layer=10**6)
    for facts in (LLAMA_8B, small):
        spec = {"offload": "None", "zero_stage": stage}
        sizes = [settings(facts, "Full", None, nodes=nodes, spec=spec).memory for nodes in (1, 2, 3, 4)]
        elastic = settings(facts, "Full", None, nodes=4, least=1, spec=spec).memory
        assert elastic
        assert elastic.process >= max(size.process for size in sizes if size)
        assert elastic.train >= max(size.train for size in sizes if size)
