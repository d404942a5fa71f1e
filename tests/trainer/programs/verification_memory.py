"""The memory that the verification of a saved model needs beside its files. Argument: a folder."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from finetune_trainer.models.load import load_saved
from finetune_trainer.models.verify import compute_in_float32
from finetune_trainer.tasks.registry import model_of
from tests.trainer.programs import truth


def anonymous_memory() -> int:
    """Returns the resident memory of this process that no file backs, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Saves a bfloat16 model of 60 million parameters, and verifies it in a loop over its modules."""
    folder = Path(sys.argv[1])
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=14,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "model")
    task = model_of("TextGeneration")
    inputs = task.collate(truth.trained_rows(), range(4), 0, None)
    peaks = [anonymous_memory()]
    model = load_saved(AutoModelForCausalLM, folder / "model", None, torch.bfloat16)
    for module in model.modules():
        module.register_forward_hook(lambda *_: peaks.append(anonymous_memory()))
    logits = compute_in_float32(task.logits, model, inputs)
    sizes = {
        "weights": sum(weight.nbytes for weight in model.parameters()),
        "peak": max(peaks) - peaks[0],
        "computed": logits.dtype == torch.float32,
    }
    (folder / "sizes.json").write_text(json.dumps(sizes))


if __name__ == "__main__":
    main()
