"""Rows for new tokens: their values, and what stays as it was, in real architectures."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PhiConfig

from finetune_trainer.config import Lora
from finetune_trainer.models import load, lora, methods
from finetune_trainer.models.vocabulary import add_rows, reserve_rows

ROWS = 20
SIZES: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
}
SIZES |= {"num_attention_heads": 4, "initializer_range": 0.3}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=ROWS, n_embd=16, n_layer=2, n_head=2),
    "with bias": PhiConfig(**SIZES),
}
INPUT = torch.tensor([[4, 7, 1, 12, 3], [9, 2, 2, 16, 11]])
LORA = Lora(rank=2, train_embeddings=True, added_tokens=("<|a|>", "<|b|>", "<|c|>", "<|d|>"))


def model_of(name: str) -> Any:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name])).eval()
    if (head := model.get_output_embeddings()).bias is not None:
        torch.nn.init.normal_(head.bias)
    return model


def logits(model: Any, ids: torch.Tensor = INPUT) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "new_ids", [range(20, 23), range(17, 19), range(18, 22)], ids=["no spare rows", "spare rows", "too few"]
)
def test_new_rows_are_the_mean_of_the_rows_before_and_all_others_stay(name: str, new_ids: range) -> None:
    base, model = model_of(name), model_of(name)
    add_rows(model, new_ids)
    rows = max(ROWS, new_ids.stop)
    earlier = torch.arange(new_ids.start)
    pairs = [(base.get_input_embeddings().weight, model.get_input_embeddings().weight)]
    heads = base.get_output_embeddings(), model.get_output_embeddings()
    pairs += list(zip(heads[0].parameters(), heads[1].parameters(), strict=True))
    for before, after in pairs:
        assert len(after) == rows
        assert torch.equal(after[earlier], before[earlier])
        for row in new_ids:
            torch.testing.assert_close(after[row], before[earlier].mean(dim=0))
        assert torch.equal(after[new_ids.stop : ROWS], before[new_ids.stop : ROWS])
    assert (heads[1].weight is model.get_input_embeddings().weight) == (name in {"tied", "gpt2"})
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == rows
    assert torch.equal(logits(model)[..., earlier], logits(base)[..., earlier])


def test_new_tokens_take_little_probability_from_the_others() -> None:
    base, model = model_of("llama"), model_of("llama")
    add_rows(model, range(ROWS, ROWS + 2))
    ids = torch.arange(400).reshape(20, 20) ** 2 % 19
    before, after = (logits(one, ids).softmax(dim=-1)[..., :ROWS] for one in (base, model))
    share = before / after
    assert share.min() > 1
    assert share.max() <= 1 + 2 / ROWS + 1e-5


def test_a_job_without_new_tokens_leaves_the_model_as_it_is() -> None:
    base, model = model_of("llama"), model_of("llama")
    add_rows(model, range(17, 17))
    reserve_rows(model, Lora(train_embeddings=True))
    assert torch.equal(logits(model), logits(base))
    assert model.config.vocab_size == ROWS


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("new_ids", [range(18, 22), range(16, 20)], ids=["more rows", "spare rows"])
def test_an_adapter_with_new_tokens_loads_by_peft_and_merges(
    tmp_path: Path, name: str, new_ids: range
) -> None:
    base, adapter, whole = (tmp_path / part for part in ("base", "adapter", "whole"))
    model = model_of(name)
    model.save_pretrained(base)
    add_rows(model, new_ids)
    tuned: Any = lora.add_adapter(model, LORA, (), seed=1).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.05)
    methods.save(tuned, adapter, str(base), torch.float32)
    new = torch.tensor([[3, *new_ids, 5]])
    expected = logits(tuned, new)
    published: Any = load.load_saved(AutoModelForCausalLM, adapter, base, torch.float32)
    torch.testing.assert_close(logits(published, new), expected, rtol=0, atol=1e-6)
    plain = AutoModelForCausalLM.from_pretrained(base)
    plain.resize_token_embeddings(max(ROWS, new_ids.stop))
    by_peft = PeftModel.from_pretrained(plain, str(adapter)).eval()
    torch.testing.assert_close(logits(by_peft, new), expected, rtol=0, atol=1e-6)
    lora.merge_adapter(published, torch.float32)
    methods.save(lora.remove_adapter(published), whole, "base", torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(whole).eval()
    torch.testing.assert_close(logits(merged, new), expected, rtol=0, atol=1e-5)
    assert merged.config.vocab_size == max(ROWS, new_ids.stop)


def test_a_model_on_the_meta_device_has_a_row_for_each_added_token() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"]))
    reserve_rows(model, LORA)
    assert model.get_input_embeddings().weight.shape == model.lm_head.weight.shape == (ROWS + 4, 16)
    assert all(weight.is_meta for weight in model.parameters())
