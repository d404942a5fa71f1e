"""The peak memory that Train reports is the peak of training alone."""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from finetune_trainer.stages import train
from finetune_trainer.training import peak_memory
from finetune_trainer.training.distributed import Gang
from tests.trainer.training.contexts import context_with

CPU = torch.device("cpu")
MIB = 1024 * 1024


def test_memory_that_was_freed_before_training_does_not_count() -> None:
    before = np.ones(512 * MIB, dtype=np.uint8)
    held = peak_memory.measure(CPU)
    assert held >= before.nbytes
    del before
    peak_memory.reset(CPU)
    assert peak_memory.measure(CPU) < held - 256 * MIB
    during = np.ones(128 * MIB, dtype=np.uint8)
    peak = peak_memory.measure(CPU)
    del during
    assert peak_memory.measure(CPU) >= peak - MIB, "the kernel counts pages of a thread in batches"


def test_the_measurement_begins_after_baseline_and_head_start_and_ends_before_the_test_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    def watch(module: ModuleType, name: str, result: object) -> None:
        monkeypatch.setattr(module, name, lambda *_args, **_options: order.append(name) or result)

    watch(train, "training_arguments", None)
    watch(train.baseline, "measure", (SimpleNamespace(packing=None), False))
    watch(train.head_start, "compute", None)
    watch(peak_memory, "reset", None)
    watch(train, "tune", SimpleNamespace(steps=3, epochs=1.0, checkpoint=""))
    watch(peak_memory, "measure", 7)
    watch(train, "_test_model", (None, None, ()))
    watch(train.staging, "save_model", None)
    context = context_with(gang=Gang(1, 1, 2, CPU), chosen=SimpleNamespace())
    monkeypatch.setattr(train, "open_context", lambda *_args: context)
    monkeypatch.setattr(train, "max_over_ranks", lambda _gang, value: value)
    config: Any = SimpleNamespace(run=SimpleNamespace(task="TextClassification"), finish=None)
    nothing: Any = None
    assert train.run(config, nothing, nothing).step == 3
    # The arguments make the models of the baseline load in shards, too.
    before, after = ["training_arguments", "measure", "compute"], ["_test_model", "save_model"]
    assert order == [*before, "reset", "tune", "measure", *after]
