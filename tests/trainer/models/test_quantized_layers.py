"""Layers with weights of 4 bits compute as layers with the dequantized weights."""

import copy
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from finetune_trainer.config import Lora
from finetune_trainer.models import lora, methods
from finetune_trainer.models.quantized_layers import QuantizedLinear, quantize_if_requested

CPU = torch.device("cpu")
INPUT = torch.tensor([[4, 7, 1, 12, 3], [9, 2, 2, 18, 11]])
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(
        vocab_size=20,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
        initializer_range=0.3,
    ),
    "gpt2": GPT2Config(
        vocab_size=20, n_embd=64, n_layer=2, n_head=2, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0
    ),
}
"""Linear layers with and without bias, and Conv1D, whose weights have the shape [in, out]."""
NF4 = Lora(rank=2, quantization="NF4")


def make_models(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Makes a model with quantized weights, and an ordinary model with the dequantized weights."""
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name]), dtype=dtype)
    ordinary = methods.apply_method(NF4, base, (), seed=1)
    with torch.no_grad():
        for layer in lora.list_adapted_layers(ordinary):
            layer.lora_B.default.weight.normal_(std=0.1)
    quantized = copy.deepcopy(ordinary)
    quantize_if_requested(NF4, quantized, CPU)
    for layer in lora.list_adapted_layers(ordinary):
        weight = layer.get_base_layer().weight.data
        rows = weight.T if layer.fan_in_fan_out else weight
        values = dequantize_4bit(
            *quantize_4bit(rows.contiguous(), compress_statistics=True, quant_type="nf4")
        )
        assert not torch.equal(values, rows)
        weight.copy_(values.T if layer.fan_in_fan_out else values)
    return quantized, ordinary


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_outputs_and_gradients_are_those_of_the_dequantized_weights(name: str, dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    found, gradients = [], []
    for model in make_models(name, dtype):
        model.train()
        output = model(input_ids=INPUT, labels=INPUT)
        output.loss.backward()
        found.append(output.logits.float())
        gradients.append([w.grad.float() for w in model.parameters() if w.requires_grad])
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)
    for quantized, ordinary in zip(*gradients, strict=True):
        torch.testing.assert_close(quantized, ordinary, rtol=tolerance, atol=tolerance)


def test_autocast_computes_in_bfloat16() -> None:
    quantized, ordinary = make_models("llama", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside, expected = (model(input_ids=INPUT).logits.float() for model in (quantized, ordinary))
    outside = ordinary(input_ids=INPUT).logits
    torch.testing.assert_close(inside, expected, rtol=2e-2, atol=2e-2)
    assert (inside - outside).abs().max() > 1e-4


def test_adapted_weights_have_half_a_byte_for_each_element() -> None:
    quantized, _ = make_models("llama", torch.bfloat16)
    layers = [part for part in quantized.modules() if isinstance(part, QuantizedLinear)]
    assert len(layers) == 2 * 7
    for layer in layers:
        assert layer.weight.nbytes == layer.in_features * layer.out_features / 2
        assert not layer.weight.requires_grad
    assert quantized.get_output_embeddings().weight.dtype == torch.bfloat16


def test_a_change_of_data_type_does_not_change_the_values() -> None:
    torch.manual_seed(0)
    layer = QuantizedLinear(torch.randn(64, 128), None)
    inputs = torch.randn(3, 128)
    expected = layer(inputs)
    # DeepSpeed does this to models with bfloat16 weights.
    layer.bfloat16()
    assert torch.equal(layer(inputs), expected)


def test_other_methods_keep_the_weights() -> None:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"]))
    tuned = methods.apply_method(Lora(rank=2), model, (), seed=1)
    quantize_if_requested(Lora(rank=2), tuned, CPU)
    assert not any(isinstance(part, QuantizedLinear) for part in tuned.modules())
