"""PURE: parses and checks the headers of safetensors files."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.models.model_check import corrupt_model

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format."""
_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "C64": 64,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
}


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    tensors: dict[str, tuple[int, ...]]
    """Shape of each tensor by name."""
    dtypes: dict[str, str]
    """Data type of each tensor by name, in safetensors names such as `BF16`."""


def parse_header_length(first: bytes, size: int, uri: str) -> int:
    """Returns the length of the JSON header of a safetensors file in bytes.

    Args:
        first: first 8 bytes of the file.
        size: size of the file in bytes.
        uri: URI of the file.

    Raises:
        StageFailure: ModelCorrupt.
    """
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or length > min(size - 8, MAX_HEADER_BYTES):  # noqa: PLR2004 - the format's own number
        raise corrupt_model(f"{uri} is no safetensors file: a header of {length:,} bytes in {size:,}")
    return length


def parse_header(text: bytes, size: int, uri: str) -> Header:
    """Parses a safetensors header, and checks that the tensors fill the file without gaps.

    Args:
        text: the JSON header.
        size: size of the file in bytes.
        uri: URI of the file.

    Raises:
        StageFailure: ModelCorrupt.
    """
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        tensors = {name: _parse_tensor(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise corrupt_model(f"{uri} has a damaged header ({str(error)[:80]})") from None
    position = 0
    for name, (shape, bits, start, end) in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if start != position or (end - start) * 8 != math.prod(shape) * bits:
            raise corrupt_model(f"{uri}: the tensor {name[:80]} does not fit where the header puts it")
        position = end
    if 8 + len(text) + position != size:
        raise corrupt_model(f"{uri} has {size:,} bytes, its header describes {8 + len(text) + position:,}")
    if not tensors:
        raise corrupt_model(f"{uri} holds no tensors")
    return Header(
        {name: shape for name, (shape, *_) in tensors.items()},
        {name: entry["dtype"] for name, entry in entries.items()},
    )


def _parse_tensor(entry: Mapping[str, Any]) -> tuple[tuple[int, ...], int, int, int]:
    shape = tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)) or end < start:
        raise ValueError("a shape or an offset is not a natural number")
    return shape, _BITS[entry["dtype"]], start, end
