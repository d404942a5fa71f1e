"""The settings with which a job fits in memory."""

from dataclasses import replace

import pytest

from finetune_trainer.models.memory import GIB, Activations, Choices, estimate_gpu, estimate_host
from finetune_trainer.models.memory_fit import EVERYTHING, Capacity, Free, find_world, select_settings
from finetune_trainer.models.memory_text import describe_difference, describe_fit
from tests.trainer.models.test_memory import CHOICES, FACTS, P

AUTO = replace(EVERYTHING, length=False)
WANTED = replace(CHOICES, rows=8)


def select(wanted: Choices, device: float, free: Free = AUTO, pod: int | None = None) -> Choices:
    fit = select_settings(FACTS, wanted, free, Capacity(int(device), pod))
    assert fit.fits
    assert fit.device.total <= device
    return fit.choices


def need(choices: Choices) -> int:
    return estimate_gpu(FACTS, choices).total


def test_settings_that_fit_are_kept() -> None:
    assert select(WANTED, need(WANTED)) == WANTED
    unlimited = select_settings(FACTS, WANTED, AUTO, Capacity())
    assert (unlimited.choices, unlimited.fits) == (WANTED, True)


def test_a_smaller_micro_batch_comes_before_checkpointing() -> None:
    smaller = replace(WANTED, rows=4)
    assert select(WANTED, need(WANTED) - 1) == smaller


def test_checkpointing_comes_before_micro_batches_of_few_tokens() -> None:
    """4 rows of 1,000 tokens are more than 2,048 tokens, 2 rows are less."""
    assert select(WANTED, need(replace(WANTED, rows=4)) - 1) == replace(WANTED, checkpointing=True)


def test_micro_batches_of_few_tokens_come_before_zero_stage_3() -> None:
    one = replace(WANTED, rows=1, checkpointing=True)
    assert select(WANTED, need(one)) == one
    sharded = select(WANTED, need(one) - 1)
    assert sharded.zero_stage == 3
    assert sharded.offload == "None"


def test_a_smaller_part_of_the_parameters_is_gathered_if_the_memory_requires_it() -> None:
    all_gathered = replace(WANTED, zero_stage=3, rows=1, checkpointing=True)
    few = select(WANTED, need(all_gathered) - 1)
    assert few.live == 2 * FACTS.largest_layer
    assert few.offload == "None"


def test_offload_comes_last() -> None:
    alone = replace(WANTED, world=1, processes_per_node=1)
    found = select(alone, 50 * GIB)
    assert (found.zero_stage, found.offload) == (2, "Optimizer")
    assert select(alone, 10 * GIB).offload == "OptimizerAndParameters"


@pytest.mark.parametrize("field", ["zero_stage", "offload", "checkpointing", "rows"])
def test_settings_of_the_job_are_kept(field: str) -> None:
    alone = replace(WANTED, world=1, processes_per_node=1)
    fit = select_settings(FACTS, alone, replace(AUTO, **{field: False}), Capacity(10 * GIB))
    assert getattr(fit.choices, field) == getattr(alone, field)


def test_architectures_without_checkpointing_are_not_checkpointed() -> None:
    plain = replace(FACTS, can_checkpoint=False)
    fit = select_settings(plain, WANTED, AUTO, Capacity(need(replace(WANTED, rows=4)) - 1))
    assert not fit.choices.checkpointing


def test_the_memory_of_the_pod_limits_offload() -> None:
    alone = replace(WANTED, world=1, processes_per_node=1)
    offloaded = select(alone, 50 * GIB)
    pod = estimate_host(FACTS, offloaded).train
    assert select(alone, 50 * GIB, pod=pod) == offloaded
    assert not select_settings(FACTS, alone, AUTO, Capacity(50 * GIB, pod // 10)).fits


def test_without_settings_that_fit_the_smallest_are_selected() -> None:
    fit = select_settings(FACTS, WANTED, AUTO, Capacity(GIB))
    assert not fit.fits
    assert (fit.choices.zero_stage, fit.choices.offload, fit.choices.rows) == (3, "OptimizerAndParameters", 1)


def test_shorter_rows_are_advice() -> None:
    wide = replace(FACTS, trained=0, can_checkpoint=False, activations=Activations(token=64e6, pair=0.0))
    fit = select_settings(wide, CHOICES, EVERYTHING, Capacity(25 * GIB))
    assert fit.fits
    assert fit.choices.length < CHOICES.length


def test_more_processes_divide_the_state() -> None:
    alone = replace(CHOICES, world=1, processes_per_node=1)
    world = find_world(FACTS, alone, Capacity(20 * GIB))
    assert world is not None
    persistent = (2 * P + 16 * FACTS.trained) / world
    assert persistent < 20 * GIB < 2 * persistent + 10 * GIB
    assert find_world(FACTS, alone, Capacity(3 * GIB)) is None


def test_changes_are_described_in_fields_of_the_spec() -> None:
    fit = select_settings(FACTS, WANTED, AUTO, Capacity(need(replace(WANTED, rows=4)) - 1))
    assert describe_fit(fit, WANTED) == "fits with training.activationCheckpointing Enabled"
    other = replace(WANTED, zero_stage=3, offload="Optimizer", rows=1, length=500)
    assert describe_difference(WANTED, other) == (
        "deepspeed.zeroStage 3, deepspeed.offload Optimizer, training.microBatchSize 1,"
        " training.maxLength 500"
    )
    assert describe_fit(select_settings(FACTS, WANTED, AUTO, Capacity(GIB)), WANTED) == "does not fit"
