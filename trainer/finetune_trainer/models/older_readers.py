"""Writes the keys of config.json that transformers 4 reads beside the keys of transformers 5."""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

CONFIG = "config.json"
_ROPE = "rope_parameters"
_MOVED = ("rope_theta", "partial_rotary_factor")
"""Keys that version 4 has beside `rope_scaling`, version 5 inside `rope_parameters`."""
_BY_LAYER_TYPE = {
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "modernbert": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
}
"""Names of the two theta of models whose layer types have a rotary embedding each."""
_OLD = frozenset({"torch_dtype", "rope_scaling", *_MOVED, "rope_local_base_freq"}) | {
    name for names in _BY_LAYER_TYPE.values() for name in names.values()
}


def add_old_keys(folder: Path) -> None:
    """Adds to a saved config.json the keys of transformers 4, where these can say the same.

    transformers 5 moves `rope_theta`, `rope_scaling` and `partial_rotary_factor` into `rope_parameters`, and
    calls `torch_dtype` `dtype`. A reader of version 4 that misses them assumes a theta of 10,000. Keys that
    would change what transformers 5 reads are not written.
    """
    file = folder / CONFIG
    document = json.loads(file.read_bytes())
    if (both := _checked(document)) is not None:
        file.write_text(json.dumps(both, indent=2, sort_keys=True) + "\n")


def with_old_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the old keys beside the new ones, also in the configs inside it."""
    found = {
        name: with_old_keys(value) if name.endswith("_config") and isinstance(value, dict) else value
        for name, value in config.items()
    }
    if isinstance(dtype := config.get("dtype"), str):
        found["torch_dtype"] = dtype
    rope = config.get(_ROPE)
    if isinstance(rope, dict):
        found |= _old_rope(rope, str(config.get("model_type")))
    return found


def readable(config: Mapping[str, Any]) -> bool:
    """Whether transformers 4 reads the same rotary embeddings from a config that `add_old_keys` changes.

    Args:
        config: as transformers 5 saves it.
    """
    both = _checked(config)
    return both is not None and not _unsaid(both)


def _checked(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config with the old keys; None where they would change what transformers 5 reads."""
    both = with_old_keys(config)
    read = _read(both)
    return both if read is not None and read == _read(config) else None


def _unsaid(config: Mapping[str, Any]) -> bool:
    """Whether a config has rotary embeddings for which the old keys are missing."""
    inner = [value for name, value in config.items() if name.endswith("_config") and isinstance(value, dict)]
    rope = config.get(_ROPE)
    missing = isinstance(rope, dict) and bool(rope) and not (_OLD - {"torch_dtype"}) & config.keys()
    return missing or any(map(_unsaid, inner))


def _old_rope(rope: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """The rotary embedding in version 4's words; empty where version 4 has none for it."""
    if any(isinstance(value, dict) for value in rope.values()):
        names = _BY_LAYER_TYPE.get(model_type, {})
        plain = all(
            layer in names and (part or {}).get("rope_type", "default") == "default"
            for layer, part in rope.items()
        )
        return {names[layer]: part["rope_theta"] for layer, part in rope.items()} if plain else {}
    old = {name: rope[name] for name in _MOVED if rope.get(name) is not None}
    scaled = rope.get("rope_type", "default") != "default"
    scaling = {name: value for name, value in rope.items() if name not in _MOVED} if scaled else None
    return {**old, "rope_scaling": scaling} if old else {}


def _read(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What this version of transformers makes of a config; None if it cannot read it."""
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    # The class of the config writes into what it is given.
    given = {name: deepcopy(value) for name, value in document.items() if name != "model_type"}
    try:
        read: dict[str, Any] = AutoConfig.for_model(str(document["model_type"]), **given).to_dict()
    except Exception:  # noqa: BLE001 - whatever a config class raises
        return None
    return {name: value for name, value in read.items() if name not in _OLD}
