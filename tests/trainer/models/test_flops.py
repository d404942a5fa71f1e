"""FLOPs for each token, compared with the operations that PyTorch counts on the meta device."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_trainer.config import FreezeLayers, Lora, Method
from finetune_trainer.models import methods
from finetune_trainer.models.flops import flops_per_token, peak_flops, peak_of_gpu

TOKENS = 8
"""Few tokens: the attention scores, which do not count, are then a small part."""
LLAMA = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}


def build(method: Method, kind: str = "llama", **changes: Any) -> Any:
    """A causal language model on the meta device."""
    config = AutoConfig.for_model(kind, **(LLAMA | changes))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        return methods.apply_method(method, model, (), seed=0)


def count(model: Any) -> float:
    """FLOPs of a forward and a backward pass for each token, as PyTorch counts them."""
    model.train()
    inputs = torch.ones((1, TOKENS), dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=inputs).logits.sum().backward()
    return counter.get_total_flops() / TOKENS


@pytest.mark.parametrize(
    "method",
    ["Full", Lora(rank=8), FreezeLayers(train_last=1), FreezeLayers(train_last=3)],
    ids=["full", "lora", "last layer", "last three layers"],
)
@pytest.mark.parametrize("tied", [False, True])
def test_the_operations_are_those_of_pytorch(method: Method, tied: bool) -> None:
    model = build(method, tie_word_embeddings=tied)
    assert flops_per_token(model) == pytest.approx(count(model), rel=0.02)


def test_full_fine_tuning_needs_six_and_an_adapter_about_four_for_each_parameter() -> None:
    full, adapter = build("Full"), build(Lora(rank=1))
    parameters = sum(w.numel() for w in full.parameters() if w.dim() > 1)
    lookups = full.get_input_embeddings().weight.numel()
    assert flops_per_token(full) == 6 * (parameters - lookups)
    assert flops_per_token(adapter) == pytest.approx(4 * (parameters - lookups), rel=0.02)


def test_a_token_needs_only_the_experts_that_it_selects() -> None:
    few = build("Full", "mixtral", num_local_experts=8, num_experts_per_tok=2)
    one = build("Full", "mixtral", num_local_experts=8, num_experts_per_tok=1)
    experts = sum(w.numel() for name, w in few.named_parameters() if ".experts." in name)
    assert experts > 0
    assert flops_per_token(few) - flops_per_token(one) == 6 * experts / 8


def test_position_embeddings_need_no_operations() -> None:
    config = AutoConfig.for_model("bert", hidden_size=64, num_hidden_layers=2, num_attention_heads=2)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    inside = sum(w.numel() for n, w in model.named_parameters() if w.dim() > 1 and "embeddings" not in n)
    assert flops_per_token(model) == 6 * inside


def test_the_peak_is_known_for_common_gpus_and_bfloat16() -> None:
    assert peak_of_gpu("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_of_gpu("NVIDIA H100 PCIe") == 756e12
    assert peak_of_gpu("NVIDIA GB200") == 2500e12
    assert peak_of_gpu("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_of_gpu("Tesla T4") is None
    assert peak_flops(torch.device("cpu"), "bfloat16") is None
