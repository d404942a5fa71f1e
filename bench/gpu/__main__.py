"""`make bench BENCH=gpu`: one table about a LoRA step on the first GPU; on CPUs only with `--shape tiny`."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from bench.gpu.lora_step import measure
from bench.gpu.parity import compare
from bench.shapes import SHAPES
from finetune_trainer.models.flops import peak_of_gpu
from finetune_trainer.models.load import silence_libraries
from finetune_trainer.pod.rank import leave
from finetune_trainer.training.distributed import join_gang

RESULTS = Path(__file__).parents[1] / "results"
GIB = 2**30
ONE_PROCESS = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29511",
}
"""The variables that torchrun sets."""


def main(arguments: list[str]) -> int:
    """Measures, prints the table, and writes bench/results/gpu.json."""
    parser = argparse.ArgumentParser(prog="bench.gpu")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3-8b")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a row (default: 4096)")
    parser.add_argument("--steps", type=int, default=8, help="timed steps (default: 8)")
    given = parser.parse_args(arguments)
    gpus = torch.cuda.is_available()
    if not gpus and given.shape != "tiny":
        parser.error("no GPU: use --shape tiny")
    silence_libraries()
    os.environ |= ONE_PROCESS | os.environ
    gang = join_gang(gpus=gpus, startup_seconds=120, hang_seconds=600)
    config = SHAPES[given.shape].config(given.tokens)
    name = torch.cuda.get_device_name() if gpus else "CPU"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, {given.shape}")
    flops = peak_of_gpu(name)
    found = {}
    print("\n| checkpointing | s/step | tokens/s | MFU | peak GiB | estimate GiB | ratio |")
    print("|---|---|---|---|---|---|---|")
    for checkpointing in (True, False):
        measured = measure(gang, config, given.tokens, given.steps, checkpointing=checkpointing)
        # The allocator of PyTorch does not count the CUDA context and libraries.
        estimate = measured.estimate.training if gpus else measured.estimate.total
        cells = (
            "yes" if checkpointing else "no",
            f"{measured.seconds:.3f}",
            f"{measured.tokens_per_second:,.0f}",
            f"{measured.utilisation(flops):.1%}" if flops else "unknown",
            f"{measured.peak / GIB:.2f}",
            f"{estimate / GIB:.2f}",
            f"{estimate / measured.peak:.2f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)
        found["with checkpointing" if checkpointing else "without checkpointing"] = asdict(measured)
        if gpus:
            torch.cuda.empty_cache()
    print("\n| implementation | largest relative difference |\n|---|---|")
    parity = dict(compare(config, given.tokens, gang.device))
    for implementation, difference in parity.items():
        print(f"| {implementation} | {difference} |")
    RESULTS.mkdir(exist_ok=True)
    result = {"device": name, "shape": given.shape, "steps": found, "parity": parity}
    (RESULTS / "gpu.json").write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    leave(code)
