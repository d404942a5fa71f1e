"""Imported once by the fork server of tests.trainer.forks: the heavy imports of the programs of a gang."""

import gc
import os
from pathlib import Path

# DeepSpeed selects a device at its import, see finetune_trainer.training.distributed.
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed  # noqa: F401
from transformers import BertForSequenceClassification, LlamaForCausalLM  # noqa: F401

from finetune_trainer.s3 import results  # noqa: F401
from finetune_trainer.stages import train  # noqa: F401
from finetune_trainer.tasks.registry import data_of, model_of

for task in ("TextClassification", "TextGeneration"):
    data_of(task)
    model_of(task)
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
if len(threads) != 1:
    raise RuntimeError(f"a fork of a process with threads can deadlock, and an import started one: {threads}")
# A collection in a fork then skips the objects of the imports, and leaves their memory shared.
gc.collect()
gc.freeze()
