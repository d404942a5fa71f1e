"""PURE: checks the names, sizes and JSON files of the folder of a base model."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_OTHER_WEIGHTS = (".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_SHARD = re.compile(r"[A-Za-z0-9._-]+\.safetensors")
PADDED_POSITIONS = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "data2vec-text",
        "ibert",
        "roberta-prelayernorm",
        "mpnet",
    }
)
"""Model types whose position numbers start after the id of the padding token."""


@dataclass(frozen=True)
class ModelRequirements:
    """The requirements of a task for the base model."""

    types: frozenset[str]
    """Model types of transformers that support the task."""
    head: str
    """Name of the required head in messages, such as `classification head`."""
    suitable: str
    """Suitable models in messages."""


def check_names(names: frozenset[str], uri: str) -> list[str]:
    """Checks that a folder contains config, tokenizer and safetensors files, and no code.

    Args:
        names: paths of the files below the folder.
        uri: URI of the folder.

    Returns:
        Warnings about files that are not read.

    Raises:
        StageFailure: ModelMissing, ModelIsAdapter, RemoteCode, PickleWeights, WeightsMissing,
            TokenizerMissing.
    """
    if not names:
        raise _config_failure(
            "ModelMissing", f"{uri} holds no files.", "Upload the model's folder, or mend model.uri."
        )
    if ADAPTER in names:
        raise _config_failure(
            "ModelIsAdapter",
            f"{uri} holds an adapter ({ADAPTER}), which is no model by itself.",
            "Set output.mergeAdapter on the job that publishes it, or name the folder of a whole model.",
        )
    if "config.json" not in names:
        raise _config_failure(
            "ModelMissing",
            f"{uri} has no config.json; it has {', '.join(sorted(names)[:8])}.",
            "model.uri must be the folder that directly holds config.json.",
        )
    code = sorted(name for name in names if name.endswith((".py", ".so", ".pyc")))
    if code:
        raise _config_failure(
            "RemoteCode",
            f"{uri} brings code of its own ({code[0]}), which is never run.",
            "Use a model that transformers knows by itself, and remove the code.",
        )
    pickles = sorted(name for name in names if name.endswith(_PICKLES) and "/" not in name)
    if not any(_SHARD.fullmatch(name) for name in names):
        if pickles:
            raise _config_failure(
                "PickleWeights",
                f"{uri} has its weights only as pickle ({pickles[0]}), which can run code when read.",
                "Convert them to safetensors on a machine you trust and upload those.",
            )
        raise _config_failure(
            "WeightsMissing", f"{uri} has no *.safetensors file.", "Upload the whole model folder."
        )
    if "tokenizer.json" not in names:
        raise _config_failure(
            "TokenizerMissing",
            f"{uri} has no tokenizer.json.",
            "Save the fast one beside the model: AutoTokenizer.from_pretrained(...).save_pretrained(...).",
        )
    unread = [*pickles, *sorted(name for name in names if name.endswith(_OTHER_WEIGHTS))]
    return [f"{uri}{name} is not read: only the safetensors files are" for name in unread]


def check_config(text: bytes, uri: str, wanted: ModelRequirements) -> dict[str, Any]:
    """Parses and checks the config of a model.

    Args:
        text: content of config.json.
        uri: URI of the model folder.
        wanted: requirements of the task.

    Raises:
        StageFailure: ModelCorrupt (not a JSON object), RemoteCode (auto_map), ModelUnsupported (quantised
            weights, or an architecture that does not support the task).
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise corrupt_model(f"{uri}config.json is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise corrupt_model(f"{uri}config.json is no JSON object")
    if config.get("auto_map"):
        raise _config_failure(
            "RemoteCode",
            f"{uri}config.json asks for code of its own (auto_map), which is never run.",
            "Use a model that transformers knows by itself.",
        )
    _check_not_quantised(config, uri)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in wanted.types:
        raise _config_failure(
            "ModelUnsupported",
            f"{uri}config.json: the model type {kind!r} has no {wanted.head} in transformers.",
            f"Take {wanted.suitable}.",
        )
    return config


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the config of the language model: the config updated with its `text_config`, if there is one.

    Args:
        config: the config of the model.
    """
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def check_floats(kinds: Iterable[str], uri: str) -> None:
    """Checks that a file contains no 8-bit floating point weights.

    Args:
        kinds: data types of the tensors in safetensors names.
        uri: URI of the file.

    Raises:
        StageFailure: ModelUnsupported.
    """
    if low := sorted({kind for kind in kinds if kind.startswith("F8_")}):
        raise _quantised_model(uri, ", ".join(low))


def _check_not_quantised(config: Mapping[str, Any], uri: str) -> None:
    """Checks that the config names no quantisation."""
    for part in (config, config.get("text_config")):
        if not isinstance(part, dict):
            continue
        for key in ("quantization_config", "compression_config"):
            config_value = part.get(key)
            if not config_value:
                continue
            how = config_value.get("quant_method") if isinstance(config_value, dict) else None
            if how is None and isinstance(config_value, dict):
                how = next(
                    (name for name in ("load_in_4bit", "load_in_8bit") if config_value.get(name)), None
                )
            raise _quantised_model(f"{uri}config.json", str(how or key)[:50])


def _quantised_model(where: str, how: str) -> StageFailure:
    return _config_failure(
        "ModelUnsupported",
        f"model.uri: the weights are quantised ({how}), see {where}.",
        "Name the original model, whose weights are in bfloat16, float16 or float32.",
    )


def list_shards(names: frozenset[str], index: bytes | None, uri: str) -> dict[str, set[str]]:
    """Lists the weight files, each with the names of the tensors in the index.

    Args:
        names: paths of the files below the folder.
        index: content of `model.safetensors.index.json`; None without this file.
        uri: URI of the folder.

    Raises:
        StageFailure: ModelShardMissing, ModelCorrupt (the index has no weight_map).
    """
    if SINGLE in names:
        return {SINGLE: set()}
    if index is None:
        raise _config_failure(
            "ModelShardMissing",
            f"{uri} has neither {SINGLE} nor {INDEX}.",
            "Name the single file model.safetensors, or upload the index beside the shards.",
        )
    try:
        weights = json.loads(index)["weight_map"]
        promised: dict[str, set[str]] = {file: set() for file in sorted(set(weights.values()))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise corrupt_model(f"{uri}{INDEX} has no weight_map of tensor to file") from None
    for file in promised:
        if not isinstance(file, str) or not _SHARD.fullmatch(file) or file not in names:
            raise _config_failure(
                "ModelShardMissing",
                f"{uri}{INDEX} names {str(file)[:100]!r}, which is not in the folder.",
                "Upload every shard beside the index.",
            )
    if not promised:
        raise corrupt_model(f"{uri}{INDEX} names no files")
    for name, file in weights.items():
        promised[file].add(name)
    return promised


def check_shard(tensors: Iterable[str], promised: set[str], uri: str) -> None:
    """Checks that a weight file contains the tensors of the index.

    Args:
        tensors: names of the tensors in the file.
        promised: names of the tensors in the index.
        uri: URI of the file.

    Raises:
        StageFailure: ModelCorrupt.
    """
    if missing := sorted(promised.difference(tensors)):
        what = f"{missing[0][:100]!r}" + (f" and {len(missing) - 1:,} more" if len(missing) > 1 else "")
        raise corrupt_model(f"{uri} does not hold {what}, which {INDEX} says it does")


def find_position_limit(config: Mapping[str, Any], tokenizer_limit: int) -> int | None:
    """Returns the maximum length of an input in tokens; None without a limit.

    Args:
        config: config of the model.
        tokenizer_limit: limit of the tokenizer; 10^9 or more means no limit.
    """
    text = text_config(config)
    own = next(
        (
            text[key]
            for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
            if isinstance(text.get(key), int) and text[key] > 0
        ),
        None,
    )
    if own is not None and text.get("model_type") in PADDED_POSITIONS:
        own -= int(text.get("pad_token_id") or 1) + 1
    limits = [limit for limit in (own, tokenizer_limit) if limit is not None and limit < 10**9]
    return min(limits) if limits else None


def corrupt_model(what: str) -> StageFailure:
    """Returns the failure of a damaged model file."""
    return _config_failure("ModelCorrupt", f"{what}.", "Upload the file again and compare its SHA-256.")


def _config_failure(reason: str, message: str, hint: str) -> StageFailure:
    return StageFailure(FailureClass.USER_CONFIG, reason, message, hint)
