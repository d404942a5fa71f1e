"""The facts of models for the memory estimate: published parameter counts, and bytes saved on the CPU."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from finetune_trainer.config import FreezeLayers, Lora, Method
from finetune_trainer.contract import Task
from finetune_trainer.models import model_size
from finetune_trainer.models.memory import ModelFacts
from finetune_trainer.stages.measure_model import run_forward
from finetune_trainer.tasks.registry import model_of, report_of
from tests.trainer.models import bases

CONFIGS = Path(__file__).parent / "configs"
SIZES = {"vocab_size": 320, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TINY: dict[str, tuple[Any, Task]] = {
    "llama": (
        transformers.LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            **SIZES,
        ),
        "TextGeneration",
    ),
    "gpt2": (
        transformers.GPT2Config(
            n_embd=64, n_layer=3, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **SIZES
        ),
        "TextGeneration",
    ),
    "bert": (
        transformers.BertConfig(
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **SIZES,
        ),
        "TextClassification",
    ),
}


def find_facts(folder: Path, task: Task, method: Method = "Full", length: int = 64) -> ModelFacts:
    return model_size.find_facts(
        folder,
        report_of(task).AUTO_CLASS,
        model_of(task).head,
        method,
        torch.bfloat16,
        partial(run_forward, task),
        length,
    )


@pytest.mark.parametrize(
    ("name", "task", "parameters"),
    [
        ("llama-3-8b", "TextGeneration", 8_030_261_248),
        ("llama-3-70b", "TextGeneration", 70_553_706_496),
        ("qwen3-32b", "TextGeneration", 32_762_123_264),
        ("mixtral-8x7b", "TextGeneration", 46_702_792_704),
        ("gemma-3-27b", "TextGeneration", 27_432_406_640),
        # The published 109,482,240, and a classification layer with two outputs.
        ("bert-base", "TextClassification", 109_482_240 + 2 * (768 + 1)),
    ],
)
def test_the_numbers_of_parameters_are_the_published_ones(name: str, task: Task, parameters: int) -> None:
    facts = find_facts(CONFIGS / name, task)
    assert facts.base_parameters == facts.parameters == facts.trained == parameters
    assert facts.activations


def test_the_facts_of_a_model_with_an_adapter() -> None:
    facts = find_facts(CONFIGS / "llama-3-8b", "TextGeneration", Lora(rank=16))
    linear = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)
    assert facts.trained == facts.parameters - facts.base_parameters == 32 * 16 * linear
    assert facts.largest_trained == 16 * 14336
    assert facts.largest_tensor == facts.embeddings == 128_256 * 4096
    assert facts.largest_layer == 218_112_000 + 16 * linear
    assert (facts.hidden, facts.layers, facts.vocabulary) == (4096, 32, 128_256)
    assert (facts.kv_heads, facts.outputs) == (8, 128_256)
    # Norms, and all matrices of the adapter but those beside the three large layers.
    assert facts.small == (2 * 32 + 1) * 4096 + 32 * 16 * (linear - 3 * 14336)


def test_added_tokens_count_as_rows_that_are_trained(tmp_path: Path) -> None:
    sizes = {}
    for tokens in ((), ("<|a|>", "<|b|>", "<|c|>")):
        write(tmp_path, bases.llama(tie_word_embeddings=False)[0])
        sizes[len(tokens)] = find_facts(
            tmp_path, "TextGeneration", Lora(train_embeddings=True, added_tokens=tokens)
        )
    plain, more = sizes[0], sizes[3]
    rows = 2 * 3 * bases.HIDDEN
    assert more.trained - plain.trained == more.parameters - plain.parameters == rows
    assert more.embeddings - plain.embeddings == 3 * bases.HIDDEN
    assert more.vocabulary == more.outputs == plain.vocabulary + 3
    assert more.base_parameters == plain.base_parameters


def test_tied_weights_count_once(tmp_path: Path) -> None:
    parameters = {}
    for tied in (False, True):
        config, _ = bases.llama(tie_word_embeddings=tied)
        write(tmp_path, config)
        parameters[tied] = find_facts(tmp_path, "TextGeneration").parameters
    assert parameters[False] - parameters[True] == bases.WORDS * bases.HIDDEN


def test_frozen_layers_save_less(tmp_path: Path) -> None:
    write(tmp_path, bases.llama()[0])
    full = find_facts(tmp_path, "TextGeneration")
    frozen = find_facts(tmp_path, "TextGeneration", FreezeLayers(train_last=1))
    assert frozen.trained < full.trained
    assert frozen.activations
    assert full.activations
    assert frozen.activations.token < 0.75 * full.activations.token


@pytest.mark.parametrize("name", TINY)
def test_the_meta_device_saves_what_the_cpu_saves(name: str) -> None:
    config, task = TINY[name]
    saved = {}
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = getattr(transformers, report_of(task).AUTO_CLASS).from_config(config, dtype=torch.float32)
        saved[device] = [
            model_size.count_saved_bytes(model, partial(run_forward, task), length) for length in (32, 96)
        ]
    assert saved["meta"] == saved["cpu"]
    assert saved["cpu"][1] == pytest.approx(3 * saved["cpu"][0], rel=0.02)


def test_attention_with_a_mask_saves_pairs(tmp_path: Path) -> None:
    """A sliding window that is shorter than the rows needs a mask, which each layer converts."""
    config, _ = bases.gemma3(layers=3, sliding_window=16)
    write(tmp_path, config)
    facts = find_facts(tmp_path, "TextGeneration", length=128)
    assert facts.activations
    assert facts.activations.pair == pytest.approx(2 * 2, rel=0.1)  # two layers, bfloat16


def test_a_model_that_needs_values_has_unknown_activations(caplog: pytest.LogCaptureFixture) -> None:
    def forward(model: torch.nn.Module, _: object) -> None:
        model.weight.sum().item()  # type: ignore[union-attr, operator]

    with torch.device("meta"):
        model = torch.nn.Linear(2, 2)
    assert model_size.measure_activations(model, forward, 64) is None
    assert "the activations are unknown" in caplog.text


def write(folder: Path, config: bases.Config) -> None:
    bases.write(folder, config, {})
