"""The benchmark of a GPU runs on a CPU with a tiny model."""

import os
import subprocess
import sys

from bench.gpu.lora_step import Measured
from finetune_trainer.models.memory import GpuMemory

COMMAND = [sys.executable, "-m", "bench.gpu", "--tokens", "64", "--steps", "1"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True, env=hidden)


def test_a_tiny_model_is_measured_without_a_gpu() -> None:
    done = run("--shape", "tiny")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| yes", "| no"))]
    assert [row[0] for row in rows] == ["| yes", "| no"]
    assert all(float(row[1]) > 0 and float(row[4]) > 0 for row in rows)
    assert "| packed rows with flash_attention_2, logits | needs a GPU |" in done.stdout


def test_a_large_model_needs_a_gpu() -> None:
    done = run()
    assert done.returncode == 2
    assert "no GPU: use --shape tiny" in done.stderr


def test_the_utilisation_is_the_share_of_the_peak() -> None:
    nothing = GpuMemory(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    measured = Measured(32_000_000_000, 10_000.0, 0.4, 0, nothing)
    assert measured.utilisation(640e12) == 0.5
