"""The share of one rank in a checkpoint: parts of tensors in host memory, laid out as a safetensors file."""

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from finetune_trainer.contract import Digest

BLOCK_BYTES = 16 * 1024 * 1024
"""Bytes of data that have a digest of their own."""
Kind = Literal["weight", "exp_avg", "exp_avg_sq", "buffer"]
"""The float32 weight of a trained parameter, the moments of Adam, or a buffer of the model."""
_ALIGNMENT = 64
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Data types by their names in safetensors files."""
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Part:
    """Consecutive elements of a flattened tensor of the run."""

    kind: Kind
    name: str
    """Name of the parameter or buffer."""
    offset: int
    """Index of the first element."""
    values: torch.Tensor
    """Shape [elements]."""

    @property
    def key(self) -> str:
        """Name in the safetensors file."""
        return f"{self.name}:{self.kind}:{self.offset}"


@dataclass(frozen=True)
class Span:
    """The place of a part in a safetensors file."""

    kind: str
    name: str
    offset: int
    """Index of the first element."""
    elements: int
    dtype: torch.dtype
    start: int
    """Offset of the first byte in the data of the file."""


class HostCopy:
    """A copy of the parts of one rank in host memory. Each `take` overwrites the copy before.

    The memory has the layout of a safetensors file, so that the upload needs no second copy. The memory is
    pageable: the copy from a GPU takes longer than to pinned memory, but PyTorch rounds the size of pinned
    memory up to a power of two, and never returns pinned memory to the system.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self.header = b""

    def take(self, parts: Sequence[Part]) -> None:
        """Copies the parts. A copy to pageable memory is synchronous, so the copy is complete at the return.

        Args:
            parts: parts of tensors on any device, each of another key.
        """
        ordered = sorted(parts, key=_place)
        entries: dict[str, dict[str, object]] = {}
        starts = [0]
        for part in ordered:
            values = part.values
            end = starts[-1] + values.numel() * values.element_size()
            entries[part.key] = {
                "dtype": _NAMES[values.dtype],
                "shape": [values.numel()],
                "data_offsets": [starts[-1], end],
            }
            starts.append(end)
        self.header = _encode_header(entries)
        if self._memory.numel() != starts[-1]:
            self._memory = torch.empty(0, dtype=torch.uint8)
            self._memory = torch.empty(starts[-1], dtype=torch.uint8)
        for part, start, end in zip(ordered, starts[:-1], starts[1:], strict=True):
            self._memory[start:end].view(part.values.dtype).copy_(part.values)

    @property
    def data_bytes(self) -> int:
        """Size of the data of the file, without the header."""
        return self._memory.numel()

    def blocks(self) -> Iterator[memoryview]:
        """The content of the file: the header, then the data in blocks of BLOCK_BYTES."""
        yield memoryview(self.header)
        data = view_bytes(self._memory)
        for start in range(0, len(data), BLOCK_BYTES):
            yield data[start : start + BLOCK_BYTES]


def view_bytes(values: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    array: Any = values.view(torch.uint8).numpy()
    return memoryview(array)


def digest_of_block(block: bytes | memoryview) -> Digest:
    """SHA-256 of a block."""
    return "sha256:" + hashlib.sha256(block).hexdigest()


def read_header(header: bytes) -> list[Span]:
    """Reads the header of a safetensors file that HostCopy wrote.

    Args:
        header: the 8 bytes of the length and the header.

    Raises:
        ValueError: the header is malformed.
    """
    spans = []
    for key, entry in json.loads(header[8:]).items():
        name, kind, offset = key.rsplit(":", 2)
        dtype = _DTYPES[entry["dtype"]]
        start, end = entry["data_offsets"]
        spans.append(Span(kind, name, int(offset), (end - start) // dtype.itemsize, dtype, start))
    return spans


def _place(part: Part) -> tuple[int, int, str, int]:
    """The order of parts in a file: larger elements first, which aligns all; then each kind together."""
    kinds = ("weight", "exp_avg", "exp_avg_sq", "buffer")
    return -part.values.element_size(), kinds.index(part.kind), part.name, part.offset


def _encode_header(entries: dict[str, dict[str, object]]) -> bytes:
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
