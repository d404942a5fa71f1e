import json
from typing import Any

import pytest

from finetune_trainer.failures import StageFailure
from finetune_trainer.models import model_check, safetensors_header

GOOD = frozenset({"config.json", "model.safetensors", "tokenizer.json"})
WANTED = model_check.ModelRequirements(frozenset({"bert"}), "classification head", "an encoder")
FOLDER = "s3://models/x/"


def header(**tensors: tuple[str, list[int], list[int]]) -> bytes:
    return json.dumps(
        {name: {"dtype": d, "shape": s, "data_offsets": o} for name, (d, s, o) in tensors.items()}
    ).encode()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (frozenset(), "ModelMissing"),
        (frozenset({"sub/config.json"}), "ModelMissing"),
        (frozenset({"adapter_config.json", "adapter_model.safetensors"}), "ModelIsAdapter"),
        (GOOD | {"adapter_config.json"}, "ModelIsAdapter"),
        (GOOD | {"modeling_x.py"}, "RemoteCode"),
        (GOOD | {"sub/evil.so"}, "RemoteCode"),
        ((GOOD - {"model.safetensors"}) | {"pytorch_model.bin"}, "PickleWeights"),
        (GOOD - {"model.safetensors"}, "WeightsMissing"),
        (GOOD - {"tokenizer.json"}, "TokenizerMissing"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(names: frozenset[str], reason: str) -> None:
    with pytest.raises(StageFailure) as failure:
        model_check.check_names(names, FOLDER)
    assert failure.value.reason == reason


def test_pickles_beside_safetensors_are_only_mentioned() -> None:
    (warning,) = model_check.check_names(GOOD | {"pytorch_model.bin"}, FOLDER)
    assert "pytorch_model.bin is not read" in warning


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "ModelCorrupt"),
        (b"[]", "ModelCorrupt"),
        (b'{"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}', "RemoteCode"),
        (b'{"model_type": "made-up"}', "ModelUnsupported"),
        (b"{}", "ModelUnsupported"),
        (b'{"model_type": ["bert"]}', "ModelUnsupported"),
        (b'{"model_type": {}}', "ModelUnsupported"),
        (b"[" * 100_000, "ModelCorrupt"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(StageFailure) as failure:
        model_check.check_config(
            text,
            FOLDER,
            model_check.ModelRequirements(frozenset({"bert"}), "classification head", "an encoder"),
        )
    assert failure.value.reason == reason


@pytest.mark.parametrize(
    ("more", "how"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"load_in_8bit": True}}, "load_in_8bit"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"compression_config": {"format": "pack-quantized"}}, "compression_config"),
        ({"text_config": {"quantization_config": {"quant_method": "gptq"}}}, "gptq"),
    ],
)
def test_quantised_weights_are_refused_by_their_method(more: dict[str, Any], how: str) -> None:
    text = json.dumps({"model_type": "bert", **more}).encode()
    with pytest.raises(StageFailure) as failure:
        model_check.check_config(text, FOLDER, WANTED)
    assert failure.value.reason == "ModelUnsupported"
    assert f"model.uri: the weights are quantised ({how})" in failure.value.message
    assert "original model" in failure.value.hint


@pytest.mark.parametrize("told", [None, {}])
def test_a_config_that_names_no_quantisation_is_taken(told: object) -> None:
    text = json.dumps({"model_type": "bert", "quantization_config": told}).encode()
    assert model_check.check_config(text, FOLDER, WANTED)["model_type"] == "bert"


def test_8_bit_floats_are_refused_where_no_config_tells_of_them() -> None:
    text = header(a=("F8_E4M3", [4], [0, 4]), b=("BF16", [2], [4, 8]))
    dtypes = safetensors_header.parse_header(text, 8 + len(text) + 8, FOLDER).dtypes
    assert dtypes == {"a": "F8_E4M3", "b": "BF16"}
    with pytest.raises(StageFailure, match=r"ModelUnsupported.*quantised \(F8_E4M3\)"):
        model_check.check_floats(dtypes.values(), FOLDER)
    model_check.check_floats({"F16", "I64"}, FOLDER)


def test_a_config_within_a_config_is_looked_at() -> None:
    nested = {"model_type": "gemma3", "text_config": {"max_position_embeddings": 64, "vocab_size": 9}}
    assert model_check.find_position_limit(nested, 10**30) == 64
    assert model_check.text_config(nested)["vocab_size"] == 9
    assert model_check.text_config({"vocab_size": 7})["vocab_size"] == 7


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (None, "ModelShardMissing"),
        (b'{"weight_map": {"a": "two.safetensors"}}', "ModelShardMissing"),
        (b'{"weight_map": {"a": "../one.safetensors"}}', "ModelShardMissing"),
        (b'{"weight_map": {"a": 1}}', "ModelShardMissing"),
        (b'{"weight_map": {}}', "ModelCorrupt"),
        (b"[]", "ModelCorrupt"),
        (b"{", "ModelCorrupt"),
    ],
)
def test_an_index_names_only_shards_that_are_there(index: bytes | None, reason: str) -> None:
    with pytest.raises(StageFailure) as failure:
        model_check.list_shards(frozenset({"one.safetensors"}), index, FOLDER)
    assert failure.value.reason == reason


def test_all_shards_of_the_index_are_read() -> None:
    index = b'{"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}'
    names = frozenset({"1.safetensors", "2.safetensors", "3.safetensors"})
    read = model_check.list_shards(names, index, FOLDER)
    assert read == {"1.safetensors": {"b"}, "2.safetensors": {"a", "c"}}


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense",
        b"[]",
        b"{}",
        header(a=("F32", [2], [0, 4])),
        header(a=("F32", [2], [0, 8]), b=("F32", [2], [4, 12])),
        header(a=("F32", [2], [8, 16])),
        header(a=("F32", [-2], [0, -8])),
        header(a=("F32", [2], [8, 0])),
        header(a=("F99", [2], [0, 8])),
        header(a=("F32", [True], [0, 4])),
    ],
)
def test_a_header_that_lies_is_refused(text: bytes) -> None:
    with pytest.raises(StageFailure) as failure:
        safetensors_header.parse_header(text, 8 + len(text) + 8, FOLDER + "model.safetensors")
    assert failure.value.reason == "ModelCorrupt"


def test_a_file_that_is_too_short_or_too_long_is_refused() -> None:
    text = header(a=("F32", [2, 2], [0, 16]))
    assert safetensors_header.parse_header(text, 8 + len(text) + 16, FOLDER).tensors == {"a": (2, 2)}
    for wrong in (15, 17):
        with pytest.raises(StageFailure, match="ModelCorrupt"):
            safetensors_header.parse_header(text, 8 + len(text) + wrong, FOLDER)


@pytest.mark.parametrize(
    ("first", "size"), [(b"", 0), (b"1234567", 7), ((200).to_bytes(8, "little"), 100), (b"\xff" * 8, 10**12)]
)
def test_a_header_length_beyond_the_file_or_100_mb_is_refused(first: bytes, size: int) -> None:
    with pytest.raises(StageFailure, match="ModelCorrupt"):
        safetensors_header.parse_header_length(first, size, FOLDER)


def test_positions_are_the_smaller_of_model_and_tokenizer() -> None:
    assert (
        model_check.find_position_limit({"model_type": "bert", "max_position_embeddings": 512}, 10**30) == 512
    )
    assert model_check.find_position_limit({"model_type": "bert", "max_position_embeddings": 512}, 128) == 128
    roberta = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    assert model_check.find_position_limit(roberta, 10**30) == 512
    assert model_check.find_position_limit({"model_type": "t5"}, 10**30) is None
