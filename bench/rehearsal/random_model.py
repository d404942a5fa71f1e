"""Makes a Llama of any size with random bfloat16 weights, one file of at most 2 GB at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.rehearsal.rows import WORDS
from bench.shapes import Shape

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<end>")
_ENDS = (SPECIAL.index("</s>"), SPECIAL.index("<end>"))
_END_SCALE = 100
"""Factor of the output weights of the tokens that end a text."""
_FILE_BYTES = 2_000_000_000
_STANDARD_DEVIATION = 0.02
_POSITIONS = 8192


LARGE_VOCABULARY = Shape(layers=3, hidden=1024, intermediate=3584, heads=16, kv_heads=8, vocabulary=128_256)
"""305 million parameters, 610 MB. Most of them are embeddings; the tokenizer uses only the first of them."""


def write_files(shape: Shape) -> Iterator[Path]:
    """Yields the files of the model one after another. The next iteration deletes a yielded file.

    Args:
        shape: the sizes of the model.
    """
    with TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "config.json").write_text(json.dumps(shape.config(_POSITIONS)))
        _make_tokenizer().save_pretrained(folder)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(_ENDS)}))
        yield from _yield_and_delete(folder)
        yield from _write_weights(shape, folder)


def _write_weights(shape: Shape, folder: Path) -> Iterator[Path]:
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(LlamaConfig(**shape.config(_POSITIONS)))
    groups: list[dict[str, torch.Size]] = [{}]
    size = 0
    for name, weight in model.named_parameters():
        size += 2 * weight.numel()
        if groups[-1] and size > _FILE_BYTES:
            groups.append({})
            size = 2 * weight.numel()
        groups[-1][name] = weight.shape
    torch.manual_seed(0)
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(groups, start=1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        weights = {name: _draw(name, sizes) for name, sizes in shapes.items()}
        save_file(weights, folder / file, metadata={"format": "pt"})
        del weights
        weight_map |= dict.fromkeys(shapes, file)
        yield from _yield_and_delete(folder)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    yield from _yield_and_delete(folder)


def _draw(name: str, shape: torch.Size) -> torch.Tensor:
    """Draws a weight; the weights of norms are 1.

    The two tokens that end a text have large output weights of opposite signs, so that one of them is nearly
    always the most likely token. Texts of many tokens would take most of the time on CPUs.
    """
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    weight = torch.empty(shape, dtype=torch.bfloat16).normal_(std=_STANDARD_DEVIATION)
    if name == "lm_head.weight":
        some, other = _ENDS
        weight[some] *= _END_SCALE
        weight[other] = -weight[some]
    return weight


def _make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token of texts
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), SPECIAL[:4], strict=True))
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, **names)  # type: ignore[no-any-return]


def _yield_and_delete(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.iterdir()):
        yield file
        file.unlink()
