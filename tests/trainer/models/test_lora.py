"""The variants of LoRA on real models: their start, what is saved, and what is merged, as PEFT reads it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
)

from finetune_trainer.config import Lora, ModuleRank
from finetune_trainer.models import load, lora, methods, pissa

INPUT = torch.tensor([[4, 7, 1, 12, 3], [9, 2, 2, 18, 11]])
SIZES: dict[str, Any] = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
LLAMA = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3)
MODELS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "llama": (AutoModelForCausalLM, LLAMA, ()),
    "tied": (AutoModelForCausalLM, LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": True}), ()),
    "gpt2": (AutoModelForCausalLM, GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2), ()),
    "bert": (
        AutoModelForSequenceClassification,
        BertConfig(**SIZES, num_attention_heads=2, initializer_range=0.3, num_labels=3),
        ("classifier",),
    ),
}
"""By name: class, config, and head."""
ATTENTION = {"llama": "q_proj", "tied": "q_proj", "gpt2": "c_attn", "bert": "query"}


def ranks_of(model: str) -> tuple[ModuleRank, ...]:
    """Other ranks for the first attention layer of a kind, and for all layers of this kind."""
    name = ATTENTION[model]
    first = {"gpt2": "h.0.attn", "bert": "layer.0.attention.self"}.get(model, "layers.0.self_attn")
    return (
        ModuleRank(modules=(f"{first}.{name}",), rank=1, alpha=5),
        ModuleRank(modules=(name,), rank=3, alpha=4),
    )


VARIANTS: dict[str, dict[str, Any]] = {
    "rank-stabilized": {"scaling": "RankStabilized"},
    "PiSSA": {"initialization": "PiSSA"},
    "DoRA": {"weight_decomposition": True},
    "ranks": {"module_ranks": True},
    "embeddings": {"train_embeddings": True},
}
EVERYTHING = {key: value for variant in VARIANTS.values() for key, value in variant.items()}
CASES = [("llama", name) for name in VARIANTS] + [(name, "everything") for name in MODELS]


def settings(model: str, variant: str) -> Lora:
    given = EVERYTHING if variant == "everything" else VARIANTS[variant]
    ranks = ranks_of(model) if given.get("module_ranks") else ()
    return Lora(rank=2, alpha=6, **{**given, "module_ranks": ranks})


@pytest.fixture
def base_of(tmp_path: Path) -> Callable[[str], Path]:
    """Saves a base model."""

    def make(name: str) -> Path:
        auto, config, _ = MODELS[name]
        torch.manual_seed(3)
        auto.from_config(copy.deepcopy(config)).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def loaded(name: str, folder: Path) -> Any:
    return MODELS[name][0].from_pretrained(folder).eval()


def adapted(name: str, folder: Path, settings: Lora) -> Any:
    return lora.add_adapter(loaded(name, folder), settings, MODELS[name][2], seed=1).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(INPUT).logits  # type: ignore[no-any-return]


def changed(tuned: Any) -> Any:
    """The model after other values were written to all trained parameters."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.05)
    return tuned


@pytest.mark.parametrize(("model", "variant"), CASES)
def test_an_adapter_initially_leaves_the_base_model_as_it_is(
    base_of: Callable[[str], Path], model: str, variant: str
) -> None:
    folder = base_of(model)
    tuned = adapted(model, folder, settings(model, variant))
    torch.testing.assert_close(logits(tuned), logits(loaded(model, folder)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("model", "variant"), CASES)
def test_a_saved_adapter_loads_onto_the_unchanged_base_model_by_plain_peft(
    base_of: Callable[[str], Path], tmp_path: Path, model: str, variant: str
) -> None:
    folder, saved = base_of(model), tmp_path / "saved"
    tuned = changed(adapted(model, folder, settings(model, variant)))
    methods.save(tuned, saved, "base", torch.float32)
    expected = logits(tuned)
    by_peft = PeftModel.from_pretrained(loaded(model, folder), str(saved)).eval()
    torch.testing.assert_close(logits(by_peft), expected, rtol=0, atol=1e-6)
    ours = load.load_saved(MODELS[model][0], saved, folder, torch.float32)
    torch.testing.assert_close(logits(ours), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(expected, logits(loaded(model, folder)), atol=1e-2)


@pytest.mark.parametrize(("model", "variant"), CASES)
def test_the_merged_model_is_the_merged_model_of_peft(
    base_of: Callable[[str], Path], tmp_path: Path, model: str, variant: str
) -> None:
    folder, saved, whole = base_of(model), tmp_path / "saved", tmp_path / "whole"
    tuned = changed(adapted(model, folder, settings(model, variant)))
    expected = logits(tuned)
    lora.merge_adapter(tuned, torch.float32)
    torch.testing.assert_close(logits(tuned), expected, rtol=0, atol=1e-5)
    methods.save(tuned, saved, "base", torch.float32)
    published: Any = load.load_saved(MODELS[model][0], saved, folder, torch.float32)
    by_peft = PeftModel.from_pretrained(loaded(model, folder), str(saved)).merge_and_unload()
    lora.merge_adapter(published, torch.float32)
    methods.save(lora.remove_adapter(published), whole, "base", torch.float32)
    merged = loaded(model, whole)
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)
    for name, weight in by_peft.named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), weight, rtol=0, atol=1e-5)
    if outputs := merged.get_output_embeddings():
        assert (outputs.weight is merged.get_input_embeddings().weight) == (model in {"tied", "gpt2"})


def test_rank_stabilized_lora_is_published_as_usual_lora_with_another_alpha(
    base_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = base_of("llama")
    tuned = changed(adapted("llama", folder, Lora(rank=3, alpha=6, scaling="RankStabilized")))
    methods.save(tuned, tmp_path / "saved", "base", torch.float32)
    config = json.loads((tmp_path / "saved/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, pytest.approx(6 * 3**0.5), False)
    (tmp_path / "saved/adapter_config.json").write_text(
        json.dumps({**config, "lora_alpha": 6, "use_rslora": True})
    )
    by_peft = PeftModel.from_pretrained(loaded("llama", folder), str(tmp_path / "saved")).eval()
    torch.testing.assert_close(logits(by_peft), logits(tuned), rtol=0, atol=1e-6)


def test_each_layer_has_its_own_rank_and_excluded_layers_have_none(
    base_of: Callable[[str], Path], tmp_path: Path
) -> None:
    given = Lora(
        rank=2,
        alpha=6,
        exclude_modules=("mlp.gate_proj", "1.self_attn.v_proj"),
        module_ranks=(
            ModuleRank(modules=("0.self_attn.q_proj",), rank=1, alpha=5),
            ModuleRank(modules=("q_proj", "o_proj"), rank=4, alpha=4),
        ),
    )
    tuned = adapted("llama", base_of("llama"), given)
    methods.save(tuned, tmp_path / "saved", "base", torch.float32)
    ranks = {
        name.removeprefix("base_model.model.model.layers.").removesuffix(".lora_A.weight"): weight.shape[0]
        for name, weight in load_file(tmp_path / "saved/adapter_model.safetensors").items()
        if name.endswith(".lora_A.weight")
    }
    usual = {"k_proj": 2, "v_proj": 2, "up_proj": 2, "down_proj": 2, "o_proj": 4}
    of_layer = {
        f"{'mlp' if name in {'up_proj', 'down_proj'} else 'self_attn'}.{name}": rank
        for name, rank in usual.items()
    }
    expected = {f"{layer}.{name}": rank for layer in range(2) for name, rank in of_layer.items()}
    expected |= {"0.self_attn.q_proj": 1, "1.self_attn.q_proj": 4}
    del expected["1.self_attn.v_proj"]
    assert ranks == expected
    first = tuned.base_model.model.model.layers[0].self_attn
    assert (first.q_proj.scaling, first.o_proj.scaling) == ({"default": 5.0}, {"default": 1.0})


def test_pissa_trains_as_in_peft_and_leaves_the_second_half_and_the_base_as_they_were(
    base_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The singular values of random weights are close to each other.
    monkeypatch.setattr(pissa, "_ITERATIONS", 200)
    folder = base_of("llama")
    ours = adapted("llama", folder, Lora(rank=2, alpha=6, initialization="PiSSA"))
    start = {name: weight.clone() for name, weight in ours.state_dict().items()}
    names = [f"self_attn.{kind}_proj" for kind in "qkvo"]
    names += [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    theirs = PeftModel(
        loaded("llama", folder),
        LoraConfig(r=2, lora_alpha=6, target_modules=names, init_lora_weights="pissa"),
    )
    losses = []
    for model in (ours, theirs):
        optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(INPUT, labels=INPUT).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:5] == pytest.approx(losses[5:], rel=1e-4)
    assert losses[4] < losses[0] - 0.1
    for name, weight in ours.state_dict().items():
        half = weight[2:] if ".lora_A." in name else weight[:, 2:] if ".lora_B." in name else weight
        before = start[name]
        unchanged = before[2:] if ".lora_A." in name else before[:, 2:] if ".lora_B." in name else before
        assert torch.equal(half, unchanged), name
        assert torch.equal(weight, before) == (".lora_" not in name), name


def test_pissa_with_a_rank_above_the_size_of_a_weight_has_further_zero_rows(
    base_of: Callable[[str], Path],
) -> None:
    folder = base_of("llama")
    tuned = adapted("llama", folder, Lora(rank=20, alpha=6, initialization="PiSSA"))
    low = tuned.base_model.model.model.layers[0].self_attn.k_proj.lora_A.default.weight
    assert low.shape == (40, 16)
    assert low.abs().sum(dim=1).count_nonzero() == 2 * 8, "a matrix of 8 rows has 8 components"
    torch.testing.assert_close(logits(tuned), logits(loaded("llama", folder)), rtol=0, atol=1e-5)


def test_an_adapter_on_the_meta_device_has_no_values() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(LLAMA))
    tuned = methods.apply_method(Lora(rank=2), model, (), seed=1)
    assert all(weight.is_meta for weight in tuned.parameters())
