"""The peak memory that Train reports is the peak of training alone."""

import numpy as np
import torch

from finetune_trainer.stages.train import _peak_memory, _reset_peak_memory
from finetune_trainer.training.distributed import Gang

ALONE = Gang(0, 0, 1, torch.device("cpu"))
MIB = 1024 * 1024


def test_memory_that_was_freed_before_training_does_not_count() -> None:
    before = np.ones(512 * MIB, dtype=np.uint8)
    held = _peak_memory(ALONE)
    assert held >= before.nbytes
    del before
    _reset_peak_memory(ALONE)
    assert _peak_memory(ALONE) < held - 256 * MIB
    during = np.ones(128 * MIB, dtype=np.uint8)
    peak = _peak_memory(ALONE)
    del during
    assert _peak_memory(ALONE) >= peak - MIB, "the kernel counts pages of a thread in batches"
