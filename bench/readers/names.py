"""Reads a published language model with the package gguf of llama.cpp: vocabulary and names of weights.

The scripts of llama.cpp that convert the weights are not in the package. The argument is that of read.py; the
result has `missing`, the weights without a name in GGUF, and `special`, the ids of the special tokens.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import gguf
from safetensors import safe_open

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
}


def main() -> None:
    """Reads the folder."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(asked["folder"])
    config = json.loads((folder / "config.json").read_text())
    names = gguf.get_tensor_name_map(ARCHITECTURES[config["model_type"]], config["num_hidden_layers"])
    missing = []
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as weights:
            held = list(weights.keys())
        missing += [name for name in held if not names.get_name(name, try_suffixes=(".weight", ".bias"))]
    special = gguf.SpecialVocab(folder, load_merges=True)
    written = {
        "version": version("gguf"),
        "missing": missing,
        "special": special.special_token_ids,
        "merges": len(special.merges),
    }
    Path(asked["result"]).write_text(json.dumps(written))


if __name__ == "__main__":
    main()
