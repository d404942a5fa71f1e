"""PURE: converts columns of Arrow record batches to numpy arrays, without copying list values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Scalar = TypeVar("Scalar", bound=np.generic)


class ConcatenatedArray(Generic[Scalar]):
    """A one-dimensional array of several chunks that are not copied, such as a column of several shards."""

    def __init__(self, chunks: Sequence[npt.NDArray[Scalar]], dtype: npt.DTypeLike) -> None:
        """Keeps references to the chunks.

        Args:
            chunks: one-dimensional arrays of type `dtype`.
            dtype: type of the values.
        """
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._chunks = [chunk for chunk in chunks if len(chunk)]
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._chunks else 0

    def __getitem__(self, index: slice) -> npt.NDArray[Scalar]:
        """Returns the values of a slice: a view if the slice lies in one chunk, otherwise a copy.

        Raises:
            ValueError: the step is not 1.
        """
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError("a slice of ConcatenatedArray has no step")
        if stop <= start:
            return np.zeros(0, dtype=self.dtype)
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        chunk_start = int(self._ends[first]) - len(self._chunks[first])
        if first == last:
            chunk: npt.NDArray[Scalar] = self._chunks[first]
            return chunk[start - chunk_start : stop - chunk_start]
        joined: npt.NDArray[Scalar] = np.concatenate(self._chunks[first : last + 1])
        return joined[start - chunk_start : stop - chunk_start]

    def view(self, dtype: npt.DTypeLike) -> "ConcatenatedArray[Any]":
        """Reinterprets the values as another type of the same size, without a copy."""
        return ConcatenatedArray([chunk.view(dtype) for chunk in self._chunks], dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Copies all values into one array. The copy takes memory in proportion to the data."""
        return self[:].astype(dtype or self.dtype, copy=bool(copy))


Values = npt.NDArray[Scalar] | ConcatenatedArray[Scalar]


@dataclass(frozen=True)
class Ragged:
    """A column whose rows have different numbers of values."""

    values: Values[Any]
    """The values of all rows, concatenated."""
    offsets: npt.NDArray[np.int64]
    """Row i has the values `values[offsets[i]:offsets[i + 1]]`; shape [rows + 1]."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self.values[int(self.offsets[row]) : int(self.offsets[row + 1])]


Column = npt.NDArray[Any] | Ragged


def read_column(field: pa.Field, chunks: Sequence[pa.Array]) -> Column:
    """Converts a column of record batches to numpy arrays, without copying list values.

    Args:
        field: name and type of the column: numbers, or lists of numbers (uint8 also stores booleans).
        chunks: the column in each record batch.

    Raises:
        pa.ArrowInvalid: the column has another type, or a value is null.
    """
    if any(chunk.null_count for chunk in chunks):
        raise pa.ArrowInvalid(f"the column {field.name} holds null")
    if not pa.types.is_list(field.type):
        if not pa.types.is_primitive(field.type):
            raise pa.ArrowInvalid(f"the column {field.name} is {field.type}, neither numbers nor lists")
        dtype = field.type.to_pandas_dtype()
        return np.concatenate(
            [np.zeros(0, dtype), *(chunk.to_numpy(zero_copy_only=False) for chunk in chunks)]
        )
    values = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in chunks]
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in chunks]
    return Ragged(
        ConcatenatedArray(values, field.type.value_type.to_pandas_dtype()),
        np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))]).astype(np.int64),
    )


def build_list_array(rows: Sequence[npt.NDArray[Any]], of: pa.ListType) -> pa.ListArray:
    """Builds an Arrow list array with one list for each row.

    Args:
        rows: the values of each row, each of shape [any].
        of: type of the array.
    """
    dtype = np.dtype(of.value_type.to_pandas_dtype())
    values = np.concatenate([np.zeros(0, dtype), *(row.astype(dtype, copy=False) for row in rows)])
    offsets = np.cumsum([0, *map(len, rows)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, of.value_type), type=of)
