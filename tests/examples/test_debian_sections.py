"""The committed data set is what its README says."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

DATA_SET = Path(__file__).parents[2] / "examples" / "data" / "debian-sections"
README = (DATA_SET / "README.md").read_text(encoding="utf-8")


def rows(split: str) -> list[dict[str, Any]]:
    lines = (DATA_SET / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def normalised(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_row_has_text_label_and_package(split: str) -> None:
    for row in rows(split):
        assert sorted(row) == ["label", "package", "text"]
        assert all(isinstance(value, str) and value.strip() for value in row.values())


def test_both_splits_have_the_same_labels() -> None:
    assert {row["label"] for row in rows("train")} == {row["label"] for row in rows("test")}


def test_no_text_occurs_twice() -> None:
    texts = [normalised(row["text"]) for row in rows("train") + rows("test")]
    assert len(set(texts)) == len(texts)


def test_no_test_text_opens_like_a_training_text() -> None:
    def opening(row: dict[str, Any]) -> str:
        return " ".join(normalised(row["text"]).split()[:20])

    assert not {opening(row) for row in rows("train")} & {opening(row) for row in rows("test")}


def test_a_source_package_gives_one_row() -> None:
    packages = [row["package"] for row in rows("train") + rows("test")]
    assert len(set(packages)) == len(packages)


def test_counts_are_those_of_the_readme() -> None:
    table = {
        label: (int(train), int(test))
        for label, train, test in re.findall(r"^\| (\w+) \| ([\d]+) \| ([\d]+) \|$", README, re.MULTILINE)
    }
    in_train, in_test = (Counter(row["label"] for row in rows(split)) for split in ("train", "test"))
    counted = {label: (in_train[label], in_test[label]) for label in in_train}
    assert table == {**counted, "all": (in_train.total(), in_test.total())}


def test_the_files_stay_small_enough_to_commit() -> None:
    assert sum(path.stat().st_size for path in DATA_SET.iterdir()) < 3_000_000
