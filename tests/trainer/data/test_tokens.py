"""The two passes from usable rows to record batches, with a tokenizer that counts letters."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from finetune_trainer.contract import Activity
from finetune_trainer.data import rows
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.progress import ProgressReporter
from finetune_trainer.data.shards import LABEL_FIELD, LOSS_MASK_FIELD, TOKENS_FIELD
from finetune_trainer.data.tokens import (
    Refusals,
    TruncatedSplit,
    build_record_batch,
    build_shard_schema,
    encode_split,
    read_encodings,
)
from finetune_trainer.tasks.text_classification.data import LabelledText
from tests.trainer.data.kept import kept

SCHEMA = pa.schema([TOKENS_FIELD, LOSS_MASK_FIELD, LABEL_FIELD, pa.field("first", pa.int32())])


class Silent:
    leave_requested = False

    def beat(self, *_: object, **__: object) -> None:
        pass


def encode(examples: list[LabelledText]) -> list[Encoding]:
    return [
        Encoding(np.zeros(0, np.int32), np.zeros(0, np.bool_), fault="no letters")
        if row.text == "?"
        else Encoding(
            np.array([ord(letter) for letter in row.text], np.int32),
            np.array([letter == "y" for letter in row.text]),
            more={"first": ord(row.text[0])},
        )
        for row in examples
    ]


def refusal(row: Encoding) -> tuple[str, str] | None:
    if row.fault:
        return "Faulty", row.fault
    return None if row.loss_mask is not None and row.loss_mask.any() else ("Empty", "nothing")


def cut(examples: list[LabelledText], encoded: list[Encoding]) -> list[Encoding]:
    assert [len(row.text) for row in examples] == [len(row.ids) for row in encoded]
    assert row_masks(encoded)
    return [Encoding(row.ids[:3], (row.loss_mask[:3]), more=row.more) for row in encoded]  # type: ignore[index]


def row_masks(encoded: list[Encoding]) -> bool:
    return all(row.loss_mask is not None for row in encoded)


@pytest.mark.parametrize("at_once", [1, 2, 2048])
def test_rows_are_encoded_cut_and_refused_in_their_order(
    tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BATCH_ROWS", at_once)
    texts = ["xy", "?", "xxxxy", "yyyyy", "y", "xxx"]
    usable = kept([LabelledText(line, text, "ab"[line % 2]) for line, text in enumerate(texts, start=1)])
    refusals = Refusals({"Faulty": "are faulty", "Empty": "are empty"})
    progress = ProgressReporter(Silent(), Activity.TOKENISING, (40, 80), len(texts))
    whole = encode_split(usable.all_rows(), SCHEMA, encode, refusals, refusal, tmp_path / "t.arrow", progress)
    assert whole.lengths.array.tolist() == [2, 5, 5, 1, 3]
    assert (progress.rows, progress.tokens) == (6, 16)
    passed = TruncatedSplit(
        whole=whole,
        schema=build_shard_schema(SCHEMA),
        max_length=3,
        truncate=cut,
        labels=lambda strata: strata + 10,
        refusals=refusals,
        refusal=refusal,
    )
    stored = [row for batch in passed.batches() for row in batch.to_pylist()]
    assert [(row["row"], "".join(map(chr, row["tokens"]))) for row in stored] == [
        (1, "xy"),
        (4, "yyy"),
        (5, "y"),
    ]
    assert [row["loss_mask"] for row in stored] == [[0, 1], [1, 1, 1], [1]]
    assert [row["label"] for row in stored] == [10, 11, 10]
    assert [chr(row["first"]) for row in stored] == ["x", "y", "y"]
    assert (passed.rows, passed.tokens, passed.trained_tokens) == (3, 6, 5)
    assert [example.text for example, _ in passed.shown] == ["xy", "yyyyy", "y"]
    assert {code: (found.count, found.first) for code, found in refusals.found.items()} == {
        "Faulty": (1, ["2: no letters"]),
        "Empty": (2, ["3: nothing", "6: nothing"]),
    }


def test_columns_of_a_task_survive_the_scratch_file() -> None:
    schema = pa.schema(
        [TOKENS_FIELD, pa.field("starts", pa.list_(pa.int32())), pa.field("score", pa.float64())]
    )
    given = [
        Encoding(np.array([1, 2], np.int32), more={"starts": np.array([0]), "score": 0.5}),
        Encoding(np.array([3], np.int32), more={"starts": np.zeros(0), "score": 2.0}),
    ]
    back = read_encodings(build_record_batch(schema, given, {}))
    assert [row.ids.tolist() for row in back] == [[1, 2], [3]]
    assert [(row.more["starts"].tolist(), row.more["score"]) for row in back] == [([0], 0.5), ([], 2.0)]
    assert [row.loss_mask for row in back] == [None, None]
