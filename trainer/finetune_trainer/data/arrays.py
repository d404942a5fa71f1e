"""PURE: columns of prepared rows as numpy arrays over memory-mapped Arrow buffers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Scalar = TypeVar("Scalar", bound=np.generic)


class Flat(Generic[Scalar]):
    """Several arrays laid end to end without copying them, such as a column of several mapped shards."""

    def __init__(self, parts: Sequence[npt.NDArray[Scalar]], dtype: npt.DTypeLike) -> None:
        """Keeps views of the parts.

        Args:
            parts: one-dimensional arrays of one type.
            dtype: type of the values, also where there are no parts.
        """
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._parts = [part for part in parts if len(part)]
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._parts else 0

    def __getitem__(self, where: slice) -> npt.NDArray[Scalar]:
        """A view where the slice lies in one part, else a copy of the values; the step must be 1."""
        start, stop, step = where.indices(len(self))
        if step != 1:
            raise ValueError("a slice of Flat has no step")
        if stop <= start:
            return np.zeros(0, dtype=self.dtype)
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        before = int(self._ends[first]) - len(self._parts[first])
        if first == last:
            part: npt.NDArray[Scalar] = self._parts[first]
            return part[start - before : stop - before]
        joined: npt.NDArray[Scalar] = np.concatenate(self._parts[first : last + 1])
        return joined[start - before : stop - before]

    def view(self, dtype: npt.DTypeLike) -> "Flat[Any]":
        """The same bytes as values of another type of the same size."""
        return Flat([part.view(dtype) for part in self._parts], dtype)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All values in one array: a copy that grows with the data, for tests and small splits."""
        return self[:].astype(dtype or self.dtype, copy=bool(copy))


Values = npt.NDArray[Scalar] | Flat[Scalar]


@dataclass(frozen=True)
class Ragged:
    """A column whose rows hold different numbers of values."""

    values: Values[Any]
    """The values of all rows, end to end."""
    offsets: npt.NDArray[np.int64]
    """Row i holds `values[offsets[i]:offsets[i + 1]]`; length rows + 1."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self.values[int(self.offsets[row]) : int(self.offsets[row + 1])]


Column = npt.NDArray[Any] | Ragged


def column(field: pa.Field, parts: Sequence[pa.Array]) -> Column:
    """A column of record batches as numpy arrays, without a copy of the values of lists.

    Args:
        field: a list of numbers (uint8 stands for truth values too), or a number for each row.
        parts: the column in each record batch.

    Raises:
        pa.ArrowInvalid: the type is another, or a value is null.
    """
    if any(part.null_count for part in parts):
        raise pa.ArrowInvalid(f"the column {field.name} holds null")
    if not pa.types.is_list(field.type):
        if not pa.types.is_primitive(field.type):
            raise pa.ArrowInvalid(f"the column {field.name} is {field.type}, neither numbers nor lists")
        dtype = field.type.to_pandas_dtype()
        return np.concatenate([np.zeros(0, dtype), *(part.to_numpy(zero_copy_only=False) for part in parts)])
    values = [part.flatten().to_numpy(zero_copy_only=True) for part in parts]
    lengths = [np.diff(part.offsets.to_numpy()) for part in parts]
    return Ragged(
        Flat(values, field.type.value_type.to_pandas_dtype()),
        np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))]).astype(np.int64),
    )


def lists(rows: Sequence[npt.NDArray[Any]], of: pa.ListType) -> pa.ListArray:
    """One list for each row."""
    dtype = np.dtype(of.value_type.to_pandas_dtype())
    values = np.concatenate([np.zeros(0, dtype), *(row.astype(dtype, copy=False) for row in rows)])
    offsets = np.cumsum([0, *map(len, rows)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, of.value_type), type=of)
