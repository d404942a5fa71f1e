"""Batches of left-padded prompts give the texts of prompts that are continued one by one."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PretrainedConfig,
    Qwen3Config,
    RwkvConfig,
)

from finetune_trainer.tasks.text_generation import generation

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "initializer_range": 0.3}
BATCHED = [
    GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3),
    LlamaConfig(**DECODER),
    Qwen3Config(**DECODER, head_dim=8),
    Gemma3TextConfig(**DECODER, head_dim=8, sliding_window=4),
    MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.3),
]
RECURRENT = RwkvConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16)
PAD, MOST = 0, 8
PROMPTS = [np.random.default_rng(count).integers(3, 50, count) for count in (2, 31, 7, 1, 12)]


def build(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    # Special tokens of the classes are outside of this vocabulary, or end texts early.
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    return model


def count_passes(model: torch.nn.Module, prompts: list[np.ndarray], ends: list[int]) -> tuple[list[int], int]:
    """The texts, and the number of forward passes."""
    passes: list[int] = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    found = generation.generate(model, prompts, ends, PAD, MOST)
    hook.remove()
    return [ids.tolist() for ids in found], len(passes)


@pytest.mark.parametrize("config", [*BATCHED, RECURRENT], ids=lambda config: config.model_type)
def test_texts_do_not_depend_on_the_other_prompts(config: PretrainedConfig) -> None:
    model = build(config)
    alone = [count_passes(model, [prompt], [1])[0][0] for prompt in PROMPTS]
    # An end that one text reaches early and another text does not reach.
    end = alone[0][1]
    expected = [ids[: ids.index(end) + 1] if end in ids else ids for ids in alone]
    assert len({len(ids) for ids in expected}) > 1
    found, passes = count_passes(model, PROMPTS, [1, end])
    assert found == expected
    one_by_one = sum(map(len, expected))
    assert generation.supports_left_padding(model) == (config is not RECURRENT)
    assert passes < one_by_one if config is not RECURRENT else passes >= one_by_one


@pytest.mark.parametrize("config", BATCHED[:3], ids=lambda config: config.model_type)
def test_bfloat16_models_are_batched(config: PretrainedConfig) -> None:
    assert generation.supports_left_padding(build(config, torch.bfloat16))


def test_a_bfloat16_model_that_sees_padding_is_not_batched() -> None:
    assert not generation.supports_left_padding(build(RECURRENT, torch.bfloat16))


def test_no_further_tokens_are_generated_after_the_time_limit() -> None:
    found = generation.generate(build(BATCHED[1]), PROMPTS[:1], [], PAD, MOST, seconds=0.0)
    assert [len(ids) for ids in found] == [1]


def test_a_single_prompt_needs_no_test() -> None:
    _, passes = count_passes(build(BATCHED[1]), PROMPTS[:1], [1])
    assert passes == MOST


@pytest.mark.parametrize(
    ("most", "batches"),
    [(100, [[1, 3, 0, 2]]), (40, [[1, 3], [0, 2]]), (20, [[1], [3, 0], [2]]), (0, [[1], [3], [0], [2]])],
)
def test_the_tokens_of_a_batch_are_bounded(most: int, batches: list[list[int]]) -> None:
    assert list(generation.list_batches([5, 20, 4, 10], most)) == batches
