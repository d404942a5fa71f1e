import json
from pathlib import Path

import pytest
import torch
import transformers

from finetune_trainer.config import Lora
from finetune_trainer.models import methods
from finetune_trainer.models.float32_layers import float32_layers
from tests.trainer import forks

SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = [
    transformers.LlamaConfig(**SIZES, intermediate_size=64, num_key_value_heads=2),
    transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4),
    transformers.Qwen3MoeConfig(
        **SIZES, intermediate_size=64, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=16, head_dim=8,
    ),
    transformers.Gemma3TextConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, head_dim=8),
]  # fmt: skip
IDS = torch.arange(3, 15).view(2, 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_the_outputs_are_those_of_a_float32_model(
    config: transformers.PretrainedConfig, adapted: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    if adapted:
        model = methods.apply_method(Lora(rank=4, alpha=8), model, (), seed=1)
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(weight, std=0.1)
    model.eval()
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    with torch.no_grad(), float32_layers(model):
        found = model(input_ids=IDS).logits
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    with torch.no_grad():
        expected = model.float()(input_ids=IDS).logits
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_saved_model_is_verified_without_a_copy_of_all_weights(tmp_path: Path) -> None:
    ended = forks.run("tests.trainer.programs.verification_memory", str(tmp_path))
    assert ended.returncode == 0, ended.stderr[-3000:]
    sizes = json.loads((tmp_path / "sizes.json").read_text())
    assert sizes["computed"]
    assert sizes["peak"] < 0.5 * sizes["weights"], sizes
    assert sizes["weights"] > 100e6, sizes
