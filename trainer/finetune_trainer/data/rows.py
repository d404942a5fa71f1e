"""IO: stores the usable rows of the files on disk, with 20 or 36 bytes of memory for each row.

Each pass over the rows reads the rows from disk in batches. Rows are compared by 64-bit hashes: among ten
million rows, the probability of a collision is 3e-6.
"""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_trainer.contract import FailureClass
from finetune_trainer.data.lines import FileSpan, Line
from finetune_trainer.data.texts import normalise
from finetune_trainer.failures import StageFailure

BATCH_ROWS = 2048
BATCH_BYTES = 1024 * 1024
"""A batch ends at BATCH_ROWS rows or at BATCH_BYTES bytes."""
MAX_STRATA = 100_000
_encode_json = json.JSONEncoder(ensure_ascii=False).encode
_SCHEMA = pa.schema([pa.field("values", pa.binary())])
Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]
"""Indices of rows in a Rows, ascending, shape [any]."""
ReadRow = Callable[[int, Mapping[str, Any]], Any]
"""Converts line and values of a row to an example, or returns the reason why the row cannot be used."""


def hash_text(text: str) -> int:
    """Returns the first 64 bits of the BLAKE2b hash of a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass
class Strata:
    """Assigns numbers to strata (classes) in the order of their first occurrence."""

    names: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """Returns the number of a stratum. A new name gets the next number.

        Raises:
            StageFailure: TooManyClasses.
        """
        found = self.numbers.setdefault(name, len(self.names))
        if found == len(self.names):
            if found == MAX_STRATA:
                raise StageFailure(
                    FailureClass.USER_DATA,
                    "TooManyClasses",
                    f"dataset.columns.label: the rows have more than {MAX_STRATA:,} different labels.",
                    "Name the column that holds the class of a row; every class needs many rows.",
                )
            self.names.append(name)
        return found


@dataclass(frozen=True)
class Rows:
    """The usable rows of the files of a split, in the order of the files."""

    path: Path
    """Arrow IPC file with the values of each row as JSON; see RowWriter."""
    starts: npt.NDArray[np.int64]
    """Index of the first row of each record batch, followed by the number of rows; shape [batches + 1]."""
    lines: npt.NDArray[np.int64]
    """1-based line of each row, continued over the files; shape [rows], like the following arrays."""
    keys: Hashes
    """Hash of Example.key of each row."""
    identities: Hashes
    """Hash of Example.identity of each row."""
    row_hashes: Hashes
    """Hash of the whole normalised row, which differs for different rows with the same key."""
    strata: npt.NDArray[np.int32]
    """Number of the stratum of each row, see `names`."""
    names: Strata
    forms: Counter[tuple[int, str]]
    """Number of rows for each stratum number and other form of the name; at most MAX_STRATA forms."""
    spans: Sequence[FileSpan]
    read: ReadRow
    """Converts the values of a row to the example."""

    def __len__(self) -> int:
        return len(self.lines)

    def all_rows(self) -> "RowSubset":
        """Returns the subset of all rows."""
        return RowSubset(self, np.arange(len(self), dtype=np.uint32))

    def count_forms(self, name: str) -> Counter[str]:
        """Returns the number of rows for each form in which the files write a stratum, the name first."""
        number = self.names.numbers[name]
        others = {form: rows for (of, form), rows in self.forms.items() if of == number}
        own = int((self.strata == number).sum()) - sum(others.values())
        return +Counter({name: own, **others})

    def line(self, number: int) -> int:
        """Returns the line of a row; see lines.Line."""
        line = int(self.lines[number])
        return Line.of(line, self.spans) if len(self.spans) > 1 else line

    def batches(self, numbers: Numbers) -> Iterator[tuple[Numbers, list[Any]]]:
        """Reads rows from disk and yields batches of indices and examples.

        Args:
            numbers: indices of the rows, ascending.
        """
        with pa.OSFile(str(self.path)) as file:
            content = pa.ipc.open_file(file)
            edges = np.searchsorted(numbers, self.starts).tolist()
            for batch in range(content.num_record_batches):
                chosen = numbers[edges[batch] : edges[batch + 1]]
                if not len(chosen):
                    continue
                indices = chosen.astype(np.int64) - self.starts[batch]
                texts = content.get_batch(batch).column(0).take(pa.array(indices)).to_pylist()
                yield (
                    chosen,
                    [
                        self._example(number, text)
                        for number, text in zip(chosen.tolist(), texts, strict=True)
                    ],
                )

    def examples(self, numbers: Numbers) -> list[Any]:
        """Reads the examples of a few rows.

        Args:
            numbers: indices of the rows, ascending.
        """
        return [example for _, batch in self.batches(numbers) for example in batch]

    def _example(self, number: int, text: bytes) -> Any:
        return self.read(self.line(number), json.loads(text.decode("utf-8", "surrogatepass")))


@dataclass(frozen=True)
class RowSubset:
    """A subset of the rows of a Rows."""

    rows: Rows
    numbers: Numbers
    """Indices of the rows of the subset."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def keys(self) -> Hashes:
        """See Rows.keys; shape [rows of the subset], like the following arrays."""
        return self.rows.keys[self.numbers]

    @property
    def identities(self) -> Hashes:
        """See Rows.identities."""
        return self.rows.identities[self.numbers]

    @property
    def row_hashes(self) -> Hashes:
        """See Rows.wholes."""
        return self.rows.row_hashes[self.numbers]

    @property
    def strata(self) -> npt.NDArray[np.int32]:
        """See Rows.strata."""
        return self.rows.strata[self.numbers]

    def counts(self) -> dict[str, int]:
        """Returns the number of rows of each stratum with rows, in the order of the stratum numbers."""
        names = self.rows.names.names
        counts = np.bincount(self.strata, minlength=len(names)).tolist()
        return {name: count for name, count in zip(names, counts, strict=True) if count}

    def line(self, index: int) -> int:
        """Returns the line of a row by the index of the row in the subset."""
        return self.rows.line(int(self.numbers[index]))

    def stratum(self, index: int) -> str:
        """Returns the stratum of a row by the index of the row in the subset."""
        return self.rows.names.names[int(self.rows.strata[self.numbers[index]])]

    def select(self, chosen: npt.NDArray[np.bool_]) -> "RowSubset":
        """Selects rows by a mask of shape [rows of the subset]."""
        return RowSubset(self.rows, self.numbers[chosen])

    def first(self, count: int) -> list[Any]:
        """Reads the examples of the first `count` rows."""
        return self.rows.examples(self.numbers[:count])

    def batches(self) -> Iterator[tuple[Numbers, list[Any]]]:
        """Reads all rows of the subset and yields batches of indices and examples."""
        return self.rows.batches(self.numbers)


class RowWriter:
    """Writes usable rows to disk."""

    def __init__(self, path: Path, names: Strata, wanted: frozenset[str] | None = None) -> None:
        """Creates an empty file.

        Args:
            path: path of the file.
            names: strata of the run; the writer adds new strata.
            wanted: columns whose values are written; None for all columns.
        """
        self._path, self._names, self._wanted = path, names, wanted
        self._sink = pa.OSFile(str(path), "wb")
        self._file = pa.ipc.new_file(self._sink, _SCHEMA)
        self._starts, self._lines = array("q", [0]), array("q")
        self._keys = array("Q")
        # None until the first row whose identity differs from the key; most tasks have no such row.
        self._others: tuple[array[int], array[int]] | None = None
        self._strata = array("i")
        self._forms: Counter[tuple[int, str]] = Counter()
        self._texts: list[bytes] = []
        self._bytes = 0

    def append(self, example: Any, values: Mapping[str, Any]) -> None:
        """Adds a row.

        Args:
            example: the example of the row.
            values: the values of the row.

        Raises:
            StageFailure: TooManyClasses.
        """
        key, identity = example.key, example.identity
        self._lines.append(example.line)
        alike = identity == key
        if not alike and self._others is None:
            self._others = array("Q", self._keys), array("Q", self._keys)
        self._keys.append(hash_text(key))
        if self._others is not None:
            identities, row_hashes = self._others
            identities.append(self._keys[-1] if alike else hash_text(identity))
            row_hashes.append(self._keys[-1] if alike else hash_text(normalise(identity)))
        number = self._names.number(example.stratum)
        self._strata.append(number)
        form = (number, example.raw_stratum)
        if example.raw_stratum and (form in self._forms or len(self._forms) < MAX_STRATA):
            self._forms[form] += 1
        if self._wanted is not None:
            values = {name: value for name, value in values.items() if name in self._wanted}
        text = _encode_json(values).encode("utf-8", "surrogatepass")
        self._texts.append(text)
        self._bytes += len(text)
        if len(self._texts) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._flush()

    def finish(self, spans: Sequence[FileSpan], read: ReadRow) -> Rows:
        """Closes the file and returns the rows.

        Args:
            spans: row numbers of the files.
            read: converts the values of a row to the example.
        """
        if self._texts:
            self._flush()
        self._file.close()
        self._sink.close()
        keys = _to_numpy(self._keys, np.uint64)
        identities, row_hashes = (
            _to_numpy(other, np.uint64) for other in self._others or (self._keys, self._keys)
        )
        return Rows(
            path=self._path,
            starts=np.frombuffer(self._starts, np.int64),
            lines=_to_numpy(self._lines, np.int64),
            keys=keys,
            identities=identities,
            row_hashes=row_hashes,
            strata=_to_numpy(self._strata, np.int32),
            names=self._names,
            forms=self._forms,
            spans=spans,
            read=read,
        )

    def _flush(self) -> None:
        self._file.write_batch(pa.record_batch([pa.array(self._texts, pa.binary())], schema=_SCHEMA))
        self._starts.append(len(self._lines))
        self._texts, self._bytes = [], 0


def _to_numpy(values: "array[int]", dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns a numpy array that shares the memory of a non-empty array."""
    return np.frombuffer(values, dtype) if values else np.zeros(0, dtype)
