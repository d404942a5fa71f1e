"""IO: the usable rows of the files, on disk; 20 or 36 bytes of each row are in memory.

A pass over the rows reads them from disk again, some at a time. What is compared between rows is compared by
64-bit hashes: among ten million rows the chance that any two different ones are taken for the same is 3e-6.
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
from finetune_trainer.data.texts import normalised
from finetune_trainer.failures import StageFailure

ROWS_AT_ONCE = 2048
BYTES_AT_ONCE = 1024 * 1024
"""A pass handles so many rows, or so many bytes of them, at a time."""
MOST_STRATA = 100_000
_encoded = json.JSONEncoder(ensure_ascii=False).encode
_SCHEMA = pa.schema([pa.field("values", pa.binary())])
Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]
"""Places of rows in a Rows, ascending."""
Reader = Callable[[int, Mapping[str, Any]], Any]
"""Line and values of a row -> an example, or the reason why it is none."""


def hashed(text: str) -> int:
    """The first 64 bits of BLAKE2b of a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass
class Strata:
    """Numbers of strata (classes), in the order in which they were first seen."""

    names: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """The number of a stratum, which is new if the name is.

        Raises:
            StageFailure: TooManyClasses.
        """
        found = self.numbers.setdefault(name, len(self.names))
        if found == len(self.names):
            if found == MOST_STRATA:
                raise StageFailure(
                    FailureClass.USER_DATA,
                    "TooManyClasses",
                    f"dataset.columns.label: the rows have more than {MOST_STRATA:,} different labels.",
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
    """The first row of each record batch of the file, then the number of rows."""
    lines: npt.NDArray[np.int64]
    """1-based line, counted on through the files; shape [rows], like the arrays below."""
    keys: Hashes
    """Of Example.key: rows with the same key stay on one side of a split."""
    identities: Hashes
    """Of Example.identity: rows with the same identity repeat each other."""
    wholes: Hashes
    """Of the whole row, normalised as the key is: tells rows with the same key apart."""
    strata: npt.NDArray[np.int32]
    """Numbers in `names`."""
    names: Strata
    forms: Counter[tuple[int, str]]
    """How many rows write the name of a stratum (its number) in another form; MOST_STRATA forms at most."""
    spans: Sequence[FileSpan]
    read: Reader
    """Makes the example of a row again."""

    def __len__(self) -> int:
        return len(self.lines)

    def whole(self) -> "Part":
        """All rows."""
        return Part(self, np.arange(len(self), dtype=np.uint32))

    def forms_of(self, name: str) -> Counter[str]:
        """How many rows write the name of a stratum in each form, the name itself first."""
        number = self.names.numbers[name]
        others = {form: rows for (of, form), rows in self.forms.items() if of == number}
        own = int((self.strata == number).sum()) - sum(others.values())
        return +Counter({name: own, **others})

    def line(self, number: int) -> int:
        """Line of a row; as a text the line, and in several files the file too."""
        line = int(self.lines[number])
        return Line.of(line, self.spans) if len(self.spans) > 1 else line

    def batches(self, numbers: Numbers) -> Iterator[tuple[Numbers, list[Any]]]:
        """Some rows with their examples, read from disk ROWS_AT_ONCE or BYTES_AT_ONCE at a time.

        Args:
            numbers: which rows, ascending.
        """
        with pa.OSFile(str(self.path)) as file:
            content = pa.ipc.open_file(file)
            edges = np.searchsorted(numbers, self.starts).tolist()
            for batch in range(content.num_record_batches):
                chosen = numbers[edges[batch] : edges[batch + 1]]
                if not len(chosen):
                    continue
                places = chosen.astype(np.int64) - self.starts[batch]
                texts = content.get_batch(batch).column(0).take(pa.array(places)).to_pylist()
                yield (
                    chosen,
                    [
                        self._example(number, text)
                        for number, text in zip(chosen.tolist(), texts, strict=True)
                    ],
                )

    def examples(self, numbers: Numbers) -> list[Any]:
        """The examples of a few rows."""
        return [example for _, batch in self.batches(numbers) for example in batch]

    def _example(self, number: int, text: bytes) -> Any:
        return self.read(self.line(number), json.loads(text.decode("utf-8", "surrogatepass")))


@dataclass(frozen=True)
class Part:
    """Some rows of a Rows."""

    rows: Rows
    numbers: Numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def keys(self) -> Hashes:
        """See Rows.keys; shape [rows of the part], like the arrays below."""
        return self.rows.keys[self.numbers]

    @property
    def identities(self) -> Hashes:
        """See Rows.identities."""
        return self.rows.identities[self.numbers]

    @property
    def wholes(self) -> Hashes:
        """See Rows.wholes."""
        return self.rows.wholes[self.numbers]

    @property
    def strata(self) -> npt.NDArray[np.int32]:
        """See Rows.strata."""
        return self.rows.strata[self.numbers]

    def counts(self) -> dict[str, int]:
        """Rows of each stratum that occurs, in the order in which the strata were first seen."""
        names = self.rows.names.names
        counts = np.bincount(self.strata, minlength=len(names)).tolist()
        return {name: count for name, count in zip(names, counts, strict=True) if count}

    def line(self, place: int) -> int:
        """Line of a row by its place in the part."""
        return self.rows.line(int(self.numbers[place]))

    def stratum(self, place: int) -> str:
        """Stratum of a row by its place in the part."""
        return self.rows.names.names[int(self.rows.strata[self.numbers[place]])]

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Part":
        """The rows of a mask of shape [rows of the part]."""
        return Part(self.rows, self.numbers[chosen])

    def first(self, count: int) -> list[Any]:
        """The examples of the first rows."""
        return self.rows.examples(self.numbers[:count])

    def batches(self) -> Iterator[tuple[Numbers, list[Any]]]:
        """All rows with their examples; see Rows.batches."""
        return self.rows.batches(self.numbers)


class RowWriter:
    """Writes usable rows to disk as they are read."""

    def __init__(self, path: Path, names: Strata, wanted: frozenset[str] | None = None) -> None:
        """Starts an empty file.

        Args:
            path: of the file.
            names: the strata of the run; grows.
            wanted: columns whose values are kept; None: all.
        """
        self._path, self._names, self._wanted = path, names, wanted
        self._sink = pa.OSFile(str(path), "wb")
        self._file = pa.ipc.new_file(self._sink, _SCHEMA)
        self._starts, self._lines = array("q", [0]), array("q")
        self._keys = array("Q")
        # Made for the first row whose identity is not its key: most tasks have no such row.
        self._others: tuple[array[int], array[int]] | None = None
        self._strata = array("i")
        self._forms: Counter[tuple[int, str]] = Counter()
        self._texts: list[bytes] = []
        self._bytes = 0

    def append(self, example: Any, values: Mapping[str, Any]) -> None:
        """Adds a row.

        Args:
            example: the usable row.
            values: what the example was made of.

        Raises:
            StageFailure: TooManyClasses.
        """
        key, identity = example.key, example.identity
        self._lines.append(example.line)
        alike = identity == key
        if not alike and self._others is None:
            self._others = array("Q", self._keys), array("Q", self._keys)
        self._keys.append(hashed(key))
        if self._others is not None:
            identities, wholes = self._others
            identities.append(self._keys[-1] if alike else hashed(identity))
            wholes.append(self._keys[-1] if alike else hashed(normalised(identity)))
        number = self._names.number(example.stratum)
        self._strata.append(number)
        form = (number, example.written)
        if example.written and (form in self._forms or len(self._forms) < MOST_STRATA):
            self._forms[form] += 1
        if self._wanted is not None:
            values = {name: value for name, value in values.items() if name in self._wanted}
        text = _encoded(values).encode("utf-8", "surrogatepass")
        self._texts.append(text)
        self._bytes += len(text)
        if len(self._texts) >= ROWS_AT_ONCE or self._bytes >= BYTES_AT_ONCE:
            self._flush()

    def finish(self, spans: Sequence[FileSpan], read: Reader) -> Rows:
        """The rows, which can be read from now on."""
        if self._texts:
            self._flush()
        self._file.close()
        self._sink.close()
        keys = _array(self._keys, np.uint64)
        identities, wholes = (_array(other, np.uint64) for other in self._others or (self._keys, self._keys))
        return Rows(
            path=self._path,
            starts=np.frombuffer(self._starts, np.int64),
            lines=_array(self._lines, np.int64),
            keys=keys,
            identities=identities,
            wholes=wholes,
            strata=_array(self._strata, np.int32),
            names=self._names,
            forms=self._forms,
            spans=spans,
            read=read,
        )

    def _flush(self) -> None:
        self._file.write_batch(pa.record_batch([pa.array(self._texts, pa.binary())], schema=_SCHEMA))
        self._starts.append(len(self._lines))
        self._texts, self._bytes = [], 0


def _array(values: "array[int]", dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The same memory; an empty array has none."""
    return np.frombuffer(values, dtype) if values else np.zeros(0, dtype)
