from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.config import Dataset, HeldOut, TrainSplit
from finetune_trainer.contract import FailureClass
from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.partition import Partition, partition
from finetune_trainer.data.rows import RowSubset, Strata
from finetune_trainer.failures import StageFailure
from finetune_trainer.tasks.text_classification.data import LabelledText as Row
from tests.trainer.data.kept import kept

Files = dict[SplitName, list[Row]]
TRAIN, VALIDATION, TEST = "s3://d/train.csv", "s3://d/validation.csv", "s3://d/test.csv"
URIS: dict[SplitName, str] = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def rows(*texts: object, label: str = "a", first: int = 1) -> list[Row]:
    return [Row(line, f"text {text}", label) for line, text in enumerate(texts, start=first)]


def parted(files: Files, seed: int = 1, **shares: float) -> Partition:
    """What is no file is drawn: a tenth where no share is given."""
    uris = {name: URIS[name] for name in files}
    held = {
        name: HeldOut(uri=URIS[name]) if name in files else HeldOut(split=shares.get(name, 0.1))
        for name in ("validation", "test")
    }
    names = Strata()
    rows_of = {name: kept(examples, names) for name, examples in files.items()}
    return partition(rows_of, uris, Dataset(train=TrainSplit(uri=TRAIN), **held), seed)


def refused(files: Files, **shares: float) -> StageFailure:
    with pytest.raises(StageFailure) as caught:
        parted(files, **shares)
    return caught.value


def lines(found: RowSubset) -> list[int]:
    return [row.line for row in found.first(1000)]


_TEXTS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=60)
_HELD = st.one_of(st.floats(0.01, 0.9), _TEXTS)


@given(_TEXTS, _HELD, _HELD, st.integers(0, 9))
def test_every_row_is_in_one_split_or_left_out_and_no_text_is_in_two(
    train: list[tuple[int, str]], validation: Any, test: Any, seed: int
) -> None:
    files: Files = {}
    shares = {}
    for name, given_ in (("train", train), ("validation", validation), ("test", test)):
        if isinstance(given_, float):
            shares[name] = given_
        else:
            files[name] = [Row(line, f"{text}", label) for line, (text, label) in enumerate(given_, start=1)]
    try:
        found = parted(files, seed, **shares)
    except StageFailure as failure:
        assert failure.reason in {"NoRows", "SplitTooSmall"}  # noqa: PT017 - which of the two is tested below
        return
    texts = {name: {row.key for row in split.first(1000)} for name, split in found.splits.items()}
    assert not texts["train"] & texts["validation"]
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]
    assert all(map(len, found.splits.values()))
    assert sum(map(len, found.splits.values())) + found.left_out == sum(map(len, files.values()))
    for name, split in found.splits.items():
        assert not Counter(split.first(1000)) - Counter(files.get(name, files["train"]))
        assert lines(split) == sorted(lines(split))


def test_a_text_that_is_everywhere_counts_for_test_and_one_of_two_files_never_for_training() -> None:
    found = parted({"train": rows(1, 2, 3, 4), "validation": rows(1, 2, 5), "test": rows(1, 6, 6)})
    assert {name: lines(split) for name, split in found.splits.items()} == {
        "train": [3, 4],
        "validation": [2, 3],
        "test": [1, 2, 3],
    }
    assert found.left_out == 3
    assert [(note.code, note.level, note.file, note.count, note.lines) for note in found.findings] == [
        ("Overlap", "warning", VALIDATION, 1, ("1: text 1",)),
        ("Overlap", "warning", TRAIN, 2, ("1: text 1", "2: text 2")),
    ]
    assert "1 validation rows were left out because their text is also among the test rows" in (
        found.findings[0].message
    )


def test_rows_that_overlap_nothing_are_left_alone() -> None:
    found = parted({"train": rows(1), "validation": rows(2), "test": rows(3)})
    assert (found.left_out, found.findings) == (0, ())
    assert [lines(split) for split in found.splits.values()] == [[1], [1], [1]]


@pytest.mark.parametrize(
    "copy", ["TEXT 1", " text\t 1 ", "te\uff58t 1"], ids=["case", "space", "wide letter"]
)
def test_texts_that_only_look_different_are_the_same(copy: str) -> None:
    found = parted({"train": rows(1, 2), "validation": rows(3), "test": [Row(1, copy, "b")]})
    assert lines(found.splits["train"]) == [2]


def test_both_shares_are_of_the_training_rows_that_are_left() -> None:
    found = parted({"train": rows(*range(200))}, validation=0.25, test=0.2)
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 110,
        "validation": 50,
        "test": 40,
    }
    found = parted({"train": rows(*range(200)), "test": rows(*range(100))}, validation=0.2)
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 80,
        "validation": 20,
        "test": 100,
    }


def test_each_class_gives_its_share_to_both() -> None:
    train = [*rows(*range(80)), *rows(*range(100, 120), label="b", first=81)]
    found = parted({"train": train}, validation=0.1, test=0.2)
    assert {name: split.counts() for name, split in found.splits.items()} == {
        "train": {"a": 56, "b": 14},
        "validation": {"a": 8, "b": 2},
        "test": {"a": 16, "b": 4},
    }


def test_the_test_rows_do_not_depend_on_the_validation_share_but_on_the_seed() -> None:
    train = rows(*range(100))
    drawn = parted({"train": train}, validation=0.1, test=0.2).splits
    tested = lines(drawn["test"])
    again = parted({"train": train}, validation=0.1, test=0.2).splits
    assert [lines(split) for split in again.values()] == [lines(split) for split in drawn.values()]
    assert lines(parted({"train": train}, validation=0.4, test=0.2).splits["test"]) == tested
    assert lines(parted({"train": train}, 2, validation=0.1, test=0.2).splits["test"]) != tested


def test_three_texts_are_enough_for_three_splits() -> None:
    found = parted({"train": rows(1, 2, 3)}, validation=0.34, test=0.34)
    assert sorted(line for split in found.splits.values() for line in lines(split)) == [1, 2, 3]
    assert [len(split) for split in found.splits.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("texts", "shares", "told"),
    [
        ([1], {}, "dataset.test.split: 0.1 of 1 training rows"),
        ([7] * 40, {"test": 0.5}, "dataset.test.split: 0.5 of 40 training rows"),
        (range(1000), {"test": 0.0001}, "dataset.test.split: 0.0001 of 1,000 training rows"),
        ([1, 2], {"test": 0.5, "validation": 0.5}, "dataset.validation.split: 0.5 of 2 training rows"),
        (range(100), {"validation": 0.001}, "dataset.validation.split: 0.001 of 100 training rows"),
    ],
    ids=["one row", "one text", "share of nothing", "none left for validation", "validation of nothing"],
)
def test_a_share_that_leaves_one_side_empty_is_refused(
    texts: list[int], shares: dict[str, float], told: str
) -> None:
    failure = refused({"train": rows(*texts)}, **shares)
    assert (failure.failure, failure.reason) == (FailureClass.USER_CONFIG, "SplitTooSmall")
    assert failure.message.startswith(told)


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({"train": rows(1, 1), "test": rows(2, 1)}, "dataset.train"),
        ({"train": rows(1, 2), "validation": rows(1), "test": rows(2)}, "dataset.train"),
        ({"train": rows(1), "validation": rows(2), "test": rows(2, 3)}, "dataset.validation"),
        ({"train": rows(1), "validation": [], "test": rows(2)}, "dataset.validation"),
        ({"train": rows(1), "validation": rows(2), "test": []}, "dataset.test"),
        ({"train": rows(1, 2, 3), "test": []}, "dataset.test"),
    ],
    ids=[
        "training is test",
        "training is validation and test",
        "validation is test",
        "no validation",
        "no test",
        "no test, and validation drawn",
    ],
)
def test_a_split_without_rows_of_its_own_is_refused(files: Files, field: str) -> None:
    failure = refused(files)
    assert (failure.failure, failure.reason) == (FailureClass.USER_DATA, "NoRows")
    assert failure.message.startswith(f"{field}: no row is left")
