"""The files of a whole model are those of save_pretrained of transformers, written layer by layer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from finetune_trainer.config import Lora
from finetune_trainer.models import lora, merged_layers, methods, older_readers, whole_weights
from tests.trainer import forks
from tests.trainer.models import bases

BASES = {
    "llama": bases.llama,
    "tied": lambda: bases.llama(tie_word_embeddings=True),
    "mixture": bases.mixture,
    "bert": bases.bert,
    "gemma3": bases.gemma3,
}


def load(name: str, folder: Path) -> Any:
    config, shapes = BASES[name]()
    tensors = bases.weights(shapes)
    if name == "bert":
        # Files of encoders often lack the prefix of the body.
        tensors = {key.removeprefix("bert."): value for key, value in tensors.items()}
    bases.write(folder, config, tensors)
    auto = AutoModelForSequenceClassification if name == "bert" else AutoModelForCausalLM
    torch.manual_seed(0)
    return auto.from_pretrained(folder)


def read(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
        with safe_open(file, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BASES)
def test_the_files_are_those_of_save_pretrained(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = load(name, tmp_path / "base")
    methods.save(model, tmp_path / "found", "base", dtype)
    model.config.name_or_path = ""
    model.to(dtype).save_pretrained(tmp_path / "expected")
    expected, found = read(tmp_path / "expected"), read(tmp_path / "found")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert {value.dtype for value in found.values()} == {dtype}
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        path.name for path in (tmp_path / "expected").iterdir()
    }
    older_readers.add_old_keys(tmp_path / "expected")
    found_config, expected_config = (
        json.loads((tmp_path / place / "config.json").read_text()) for place in ("found", "expected")
    )
    assert found_config == expected_config
    if model.can_generate():
        file = "generation_config.json"
        assert (tmp_path / "found" / file).read_text() == (tmp_path / "expected" / file).read_text()


def test_the_files_of_sharded_models_are_those_of_whole_models(tmp_path: Path) -> None:
    models = {name: load(name, tmp_path / name) for name in BASES}
    ended = forks.run("tests.trainer.programs.sharded_saving", str(tmp_path), ranks=2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for name, model in models.items():
        model.save_pretrained(tmp_path / "expected" / name)
        expected, found = read(tmp_path / "expected" / name), read(tmp_path / name / "found")
        assert found.keys() == expected.keys(), name
        # The new head of the encoder has other random numbers.
        loaded = [key for key in expected if "classifier" not in key]
        assert all(torch.equal(found[key], expected[key]) for key in loaded), name


@pytest.mark.parametrize("name", BASES)
def test_files_of_limited_size_have_an_index(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(name, tmp_path / "base")
    most = 20_000
    monkeypatch.setattr(whole_weights, "SHARD_BYTES", most)
    methods.save(model, tmp_path / "found", "base", torch.float32)
    model.save_pretrained(tmp_path / "expected", max_shard_size=most)
    found, expected = read(tmp_path / "found"), read(tmp_path / "expected")
    assert found.keys() == expected.keys()
    index, other = (
        json.loads((tmp_path / place / "model.safetensors.index.json").read_text())
        for place in ("found", "expected")
    )
    assert index["metadata"] == other["metadata"]
    assert index["weight_map"].keys() == expected.keys()
    files = {path.name for path in (tmp_path / "found").glob("model*")} - {"model.safetensors.index.json"}
    assert files == set(index["weight_map"].values())
    for file in files:
        tensors = load_file(tmp_path / "found" / file)
        assert tensors.keys() == {key for key, place in index["weight_map"].items() if place == file}
        assert len(tensors) == 1 or sum(value.nbytes for value in tensors.values()) <= most
    again = type(model).from_pretrained(tmp_path / "found")
    state = again.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_merged_model_is_written_without_changing_the_model_in_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    tuned: Any = lora.add_adapter(base, Lora(rank=2, alpha=4), (), seed=1)
    with torch.no_grad():
        for key, weight in tuned.named_parameters():
            if ".lora_B." in key:
                weight.normal_()
    ids = torch.arange(3, 15).view(2, 6)
    tuned.to(torch.bfloat16).eval()
    before = {key: value.clone() for key, value in tuned.state_dict().items()}
    with torch.no_grad(), merged_layers.merged_weights(tuned, torch.bfloat16):
        merged_logits = tuned(input_ids=ids).logits
    assert all(torch.equal(value, before[key]) for key, value in tuned.state_dict().items())
    with torch.no_grad():
        assert not torch.equal(tuned(input_ids=ids).logits, merged_logits)
    merged = merged_layers.merged_parameters(tuned, torch.bfloat16)
    whole = lora.remove_adapter(tuned)
    methods.save(whole, tmp_path / "found", "base", torch.bfloat16, merged)
    after = whole.state_dict()
    assert all(torch.equal(value, before[_in_adapter(key, before)]) for key, value in after.items())
    reloaded = GPT2LMHeadModel.from_pretrained(tmp_path / "found").eval()
    with torch.no_grad():
        assert torch.equal(reloaded(input_ids=ids).logits, merged_logits)


def _in_adapter(key: str, names: dict[str, torch.Tensor]) -> str:
    """The name of a weight in the model with the adapter."""
    name = f"base_model.model.{key}"
    parent, _, last = name.rpartition(".")
    return name if name in names else f"{parent}.base_layer.{last}"


@pytest.mark.parametrize("method", ["Full", "merged LoRA"])
def test_rank_0_saves_and_checks_a_sharded_model_without_the_whole_model_in_memory(
    method: str, tmp_path: Path
) -> None:
    ended = forks.run("tests.trainer.programs.saving_memory", method, str(tmp_path), ranks=2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    sizes = json.loads((tmp_path / "sizes.json").read_text())
    assert sizes["weights"] > 100e6, sizes
    assert sizes["peak"] < 0.5 * sizes["weights"], sizes
