"""Imported once by the fork server of tests.trainer.forks: everything that the programs of a gang import.

A fork of a process with threads can deadlock, so this module checks that the imports started no thread.
"""

import os
from pathlib import Path

# DeepSpeed selects a device at its import, as in finetune_trainer.training.distributed.
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed  # noqa: F401
import torch.distributed  # noqa: F401
from transformers import BertForSequenceClassification, LlamaForCausalLM  # noqa: F401

from finetune_trainer.s3 import results  # noqa: F401
from finetune_trainer.stages import train  # noqa: F401
from finetune_trainer.tasks.registry import data_of, model_of

for task in ("TextClassification", "TextGeneration"):
    data_of(task), model_of(task)
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
if len(threads) != 1:
    raise RuntimeError(f"the imports started threads: {threads}")
