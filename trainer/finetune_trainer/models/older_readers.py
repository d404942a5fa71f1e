"""Adds the keys that transformers 4 reads to a config.json of transformers 5."""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

CONFIG = "config.json"
_ROPE = "rope_parameters"
_MOVED = ("rope_theta", "partial_rotary_factor")
"""Keys that are top-level keys in version 4, and keys of `rope_parameters` in version 5."""
_BY_LAYER_TYPE = {
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "modernbert": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
}
"""Keys of version 4 for the theta of each layer type, for models with one rotary embedding for each type."""
_RENAMED = {
    model_type: {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    for model_type in ("gpt_neox", "gpt_neox_japanese")
}
"""Names in version 4 of the keys in _MOVED, by model type, where version 4 has other names."""
_OLD = frozenset({"torch_dtype", "rope_scaling", *_MOVED, "rope_local_base_freq"}) | {
    name for names in (*_BY_LAYER_TYPE.values(), *_RENAMED.values()) for name in names.values()
}


def add_old_keys(folder: Path) -> None:
    """Adds the keys of transformers 4 to a saved config.json.

    transformers 5 moves `rope_theta`, `rope_scaling` and `partial_rotary_factor` into `rope_parameters`, and
    renames `torch_dtype` to `dtype`. Without these keys, transformers 4 assumes a theta of 10,000. The
    function does not change a config that transformers 5 would then read differently.

    Args:
        folder: folder of the saved model.
    """
    file = folder / CONFIG
    document = json.loads(file.read_bytes())
    if (both := _build_checked_config(document)) is not None:
        file.write_text(json.dumps(both, indent=2, sort_keys=True) + "\n")


def build_compatible_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of the config with the keys of transformers 4, also in nested configs."""
    found = {
        name: build_compatible_config(value)
        if name.endswith("_config") and isinstance(value, dict)
        else value
        for name, value in config.items()
    }
    if isinstance(dtype := config.get("dtype"), str):
        found["torch_dtype"] = dtype
    rope = config.get(_ROPE)
    if isinstance(rope, dict):
        found |= _convert_rope(rope, str(config.get("model_type")))
    return found


def is_readable(config: Mapping[str, Any]) -> bool:
    """Returns whether transformers 4 reads the same rotary embeddings after `add_old_keys`.

    Args:
        config: config saved by transformers 5.
    """
    both = _build_checked_config(config)
    return both is not None and not _lacks_rope_keys(both)


def _build_checked_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the config with the old keys; None if transformers 5 would read a different config."""
    both = build_compatible_config(config)
    read = _load_config(both)
    return both if read is not None and read == _load_config(config) else None


def _lacks_rope_keys(config: Mapping[str, Any]) -> bool:
    """Returns whether a config, or a nested config, has rotary embeddings without the old keys."""
    inner = [value for name, value in config.items() if name.endswith("_config") and isinstance(value, dict)]
    rope = config.get(_ROPE)
    missing = isinstance(rope, dict) and bool(rope) and not (_OLD - {"torch_dtype"}) & config.keys()
    return missing or any(map(_lacks_rope_keys, inner))


def _convert_rope(rope: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Converts rotary embedding parameters to keys of version 4; empty if version 4 has no such keys."""
    if any(isinstance(value, dict) for value in rope.values()):
        names = _BY_LAYER_TYPE.get(model_type, {})
        plain = all(
            layer in names and (part or {}).get("rope_type", "default") == "default"
            for layer, part in rope.items()
        )
        return {names[layer]: part["rope_theta"] for layer, part in rope.items()} if plain else {}
    renamed = _RENAMED.get(model_type, {})
    old = {renamed.get(name, name): rope[name] for name in _MOVED if rope.get(name) is not None}
    scaled = rope.get("rope_type", "default") != "default"
    scaling = {name: value for name, value in rope.items() if name not in _MOVED} if scaled else None
    return {**old, "rope_scaling": scaling} if old else {}


def _load_config(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the config as transformers 5 reads the document; None if the config class fails."""
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    # The config class modifies its arguments.
    given = {name: deepcopy(value) for name, value in document.items() if name != "model_type"}
    try:
        read: dict[str, Any] = AutoConfig.for_model(str(document["model_type"]), **given).to_dict()
    except Exception:  # noqa: BLE001 - config classes raise arbitrary exceptions
        return None
    return {name: value for name, value in read.items() if name not in _OLD}
