"""config.json of what is published, as a program reads it that knows the keys of transformers 4 alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoConfig,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXJapaneseConfig,
    LlamaConfig,
    ModernBertConfig,
    PretrainedConfig,
)

from finetune_trainer.models import older_readers
from tests.trainer.models import bases

SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


def saved(folder: Path, config: PretrainedConfig) -> dict[str, Any]:
    """config.json after the old keys were added; transformers 5 must read what it read before."""
    config.save_pretrained(folder)
    before = AutoConfig.from_pretrained(folder).to_dict()
    older_readers.add_old_keys(folder)
    after = AutoConfig.from_pretrained(folder).to_dict()
    for name, value in before.items():
        assert after[name] == value, name
    document: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return document


def test_theta_scaling_and_dtype_stand_where_version_4_reads_them(tmp_path: Path) -> None:
    given, _ = bases.llama(rope_scaling=SCALING)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(given))
    config = AutoConfig.from_pretrained(tmp_path / "base")
    assert older_readers.is_readable(config.to_dict())
    found = saved(tmp_path / "saved", config)
    for name in ("rope_theta", "rope_scaling", "torch_dtype"):
        assert found[name] == given[name], name
    assert found["rope_parameters"]["rope_theta"] == 500000.0
    assert found["dtype"] == "float32"


def test_without_scaling_there_is_none(tmp_path: Path) -> None:
    found = saved(tmp_path, LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 12345.0}))
    assert (found["rope_theta"], found["rope_scaling"]) == (12345.0, None)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (ModernBertConfig(num_hidden_layers=2), {"global_rope_theta", "local_rope_theta"}),
        (Gemma3TextConfig(num_hidden_layers=2), {"rope_theta", "rope_local_base_freq"}),
    ],
    ids=["modernbert", "gemma3"],
)
def test_layer_types_with_a_theta_each_have_the_names_of_their_model(
    tmp_path: Path, config: Any, says: set[str]
) -> None:
    found = saved(tmp_path, config)
    assert says <= found.keys()
    assert {found[name] for name in says} == {part["rope_theta"] for part in config.rope_parameters.values()}
    assert older_readers.is_readable(config.to_dict())


@pytest.mark.parametrize("config", [GPTNeoXConfig, GPTNeoXJapaneseConfig])
def test_a_gpt_neox_has_the_names_of_its_own(tmp_path: Path, config: Any) -> None:
    rope = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}
    found = saved(tmp_path, config(num_hidden_layers=2, rope_parameters=rope))
    assert (found["rotary_emb_base"], found["rotary_pct"]) == (5000.0, 0.5)
    assert older_readers.is_readable(config(rope_parameters=rope).to_dict())


def test_what_version_4_has_no_words_for_is_left_out(tmp_path: Path) -> None:
    scaled = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    config = Gemma3TextConfig(num_hidden_layers=2, rope_parameters=scaled)
    found = saved(tmp_path, config)
    assert "rope_local_base_freq" not in found
    assert not older_readers.is_readable(config.to_dict())


def test_a_model_without_rotary_embeddings_is_readable() -> None:
    assert older_readers.is_readable({"model_type": "bert", "dtype": "float32"})
    assert (
        older_readers.build_compatible_config({"model_type": "bert", "dtype": "float32"})["torch_dtype"]
        == "float32"
    )
