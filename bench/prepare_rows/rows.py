"""The rows of the benchmark in each file format: English words, ten classes, no two texts alike."""

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORMATS = ("jsonl", "csv", "parquet")
CLASSES = 10
_WORDS = 26
"""Words of a text: about 180 bytes."""
_AT_ONCE = 10_000


def write(path: Path, texts: Path, count: int) -> None:
    """Writes the rows; the ending of the path tells the format.

    Args:
        path: of the file.
        texts: JSON Lines whose texts give the words.
        count: rows.
    """
    rows = _rows(texts, count)
    match path.suffix:
        case ".jsonl":
            with path.open("w") as file:
                file.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("text", "label"))
                writer.writerows(rows)
        case _:
            schema = pa.schema([("text", pa.string()), ("label", pa.string())])
            with pq.ParquetWriter(path, schema) as parquet:
                while batch := list(islice(rows, _AT_ONCE)):
                    columns = [pa.array(column) for column in zip(*batch, strict=True)]
                    parquet.write_batch(pa.record_batch(columns, schema=schema))


def _rows(texts: Path, count: int) -> Iterator[tuple[str, str]]:
    words = sorted({word for line in texts.open() for word in json.loads(line)["text"].split()})
    random = np.random.default_rng(0)
    for first in range(0, count, _AT_ONCE):
        chosen = random.integers(0, len(words), (min(_AT_ONCE, count - first), _WORDS)).tolist()
        for number, row in enumerate(chosen, start=first):
            yield f"{number} " + " ".join(map(words.__getitem__, row)), f"class {number % CLASSES}"
