"""`python -m bench.faults.models FOLDER`: the tiny models of the scenarios, each in a folder of its own."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Makes `bert`, `llama` and `llama-bfloat16`."""
    folder = Path(sys.argv[1])
    for name in ("bert", "llama"):
        program = [sys.executable, "-m", f"tests.trainer.programs.tiny_{name}", str(folder / name)]
        subprocess.run(program, check=True)  # noqa: S603 - a program of the tests
    copytree(folder / "llama", folder / "llama-bfloat16")
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "llama")
    model.to(torch.bfloat16).save_pretrained(folder / "llama-bfloat16")


if __name__ == "__main__":
    main()
