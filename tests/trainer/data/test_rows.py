from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_trainer.config import Columns
from finetune_trainer.data import rows
from finetune_trainer.data.lines import FileSpan
from finetune_trainer.data.rows import Rows, RowWriter, Strata, hash_text
from finetune_trainer.data.texts import normalise
from finetune_trainer.failures import StageFailure
from finetune_trainer.tasks.text_classification.data import LabelledText
from finetune_trainer.tasks.text_generation.rows import Passage, parse_passage


def read(line: int, values: Mapping[str, Any]) -> LabelledText:
    return LabelledText(line, values["text"], values["label"])


def written(path: Path, texts: list[str], spans: tuple[FileSpan, ...] = ()) -> Rows:
    writer = RowWriter(path, Strata(), frozenset({"text", "label"}))
    for line, text in enumerate(texts, start=1):
        values = {"text": text, "label": "ab"[line % 2], "other": "x" * 99}
        writer.append(read(line, values), values)
    return writer.finish(spans or (FileSpan(file="a", before=0),), read)


@pytest.fixture(params=[1, 3, 2048])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(rows, "BATCH_ROWS", request.param)
    return int(request.param)


def test_rows_come_back_in_their_order_some_at_a_time(tmp_path: Path, at_once: int) -> None:
    texts = [f"text \U0001f600 {number}" for number in range(10)]
    found = written(tmp_path / "rows.arrow", texts)
    batches = list(found.all_rows().batches())
    assert [row.text for _, batch in batches for row in batch] == texts
    assert max(len(batch) for _, batch in batches) == min(at_once, 10)
    assert [row.text for row in found.examples(np.array([1, 8], np.uint32))] == [texts[1], texts[8]]
    assert found.all_rows().counts() == {"b": 5, "a": 5}


def test_columns_that_no_task_reads_are_not_kept(tmp_path: Path) -> None:
    found = written(tmp_path / "rows.arrow", ["text"])
    assert b"xxx" not in found.path.read_bytes()


def test_a_batch_ends_when_it_has_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BATCH_BYTES", 5000)
    found = written(tmp_path / "rows.arrow", ["y" * 3000] * 6)
    assert [len(batch) for _, batch in found.all_rows().batches()] == [2, 2, 2]


def test_texts_that_only_look_different_have_the_same_key(tmp_path: Path) -> None:
    found = written(tmp_path / "rows.arrow", ["A  cat", "a CAT", "a dog"])
    assert found.keys[0] == found.keys[1] != found.keys[2]
    assert found.keys.tolist() == found.identities.tolist()


def test_a_row_of_several_files_is_named_by_file_and_line(tmp_path: Path) -> None:
    spans = (FileSpan(file="a.csv", before=0), FileSpan(file="b.csv", before=2))
    found = written(tmp_path / "rows.arrow", ["one", "two", "three"], spans)
    assert [str(row.line) for row in found.all_rows().first(3)] == ["a.csv:1", "a.csv:2", "b.csv:1"]


def test_labels_that_name_the_row_end_before_they_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows, "MAX_STRATA", 3)
    names = Strata()
    assert [names.number(name) for name in ("a", "b", "a", "c")] == [0, 1, 0, 2]
    with pytest.raises(StageFailure, match="TooManyClasses"):
        names.number("d")


def test_memory_of_a_row_is_bounded(tmp_path: Path) -> None:
    found = written(tmp_path / "rows.arrow", ["text"] * 100)
    arrays = (found.lines, found.keys, found.identities, found.row_hashes, found.strata)
    # Where all identities are the keys, the three arrays are the same memory.
    memory = {array.__array_interface__["data"][0]: array.nbytes for array in arrays}
    assert sum(memory.values()) == 20 * 100


@pytest.mark.parametrize("unlike", [0, 1, 3, 4])
def test_whole_rows_are_told_apart_from_the_first_row_that_is_more_than_its_key(
    tmp_path: Path, unlike: int
) -> None:
    texts = [{"text": f"Text {n}"} for n in range(5)]
    texts[unlike] = {"prompt": "Q", "completion": "  A"}
    writer = RowWriter(tmp_path / "rows.arrow", Strata())
    for line, values in enumerate(texts, start=1):
        row = parse_passage(line, values, Columns(), "Completion")
        assert isinstance(row, Passage)
        writer.append(row, values)
    found = writer.finish((FileSpan(file="a", before=0),), lambda *_: None)
    examples = [parse_passage(1, values, Columns(), "Completion") for values in texts]
    assert found.keys.tolist() == [hash_text(row.key) for row in examples]
    assert found.identities.tolist() == [hash_text(row.identity) for row in examples]
    assert found.row_hashes.tolist() == [hash_text(normalise(row.identity)) for row in examples]
