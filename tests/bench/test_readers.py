"""The table of the readers: what counts as equal, and what counts as a fault."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.readers.__main__ import Cell, compare, compare_names, render
from bench.readers.models import CASES, LABELS, Published

CLASSIFIER = next(case for case in CASES if case.classifier)
RIGHT: dict[str, Any] = {"ids": {"a": [0, 5]}, "logits": {"a": [1.0, 2.0, 40.0]}, "labels": list(LABELS)}


@pytest.fixture
def published(tmp_path: Path) -> Published:
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}))
    return Published(tmp_path, tmp_path, {"a": torch.tensor([1.0, 2.0, 40.0])}, {"a": [0, 5]})


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, None),
        ({"logits": {"a": [1.0, 2.0, 40.0003]}}, None),
        ({"logits": {"a": [1.0, 2.0, 40.001]}}, "other logits"),
        ({"logits": {"a": [1.0, 2.0, float("nan")]}}, "other logits"),
        ({"logits": {"a": [1.0, 2.0]}}, "another shape"),
        ({"ids": {"a": [5]}}, "other token ids"),
        ({"labels": ["LABEL_0", "LABEL_1", "LABEL_2"]}, "other class names"),
    ],
    ids=["equal", "rounding", "logit", "not a number", "shape", "ids", "labels"],
)
def test_a_reader_that_gets_other_values_has_a_fault(
    published: Published, changed: dict[str, Any], fault: str | None
) -> None:
    _, faults = compare({**RIGHT, **changed}, CLASSIFIER, published)
    assert bool(faults) == (fault is not None)
    assert fault is None or fault in faults[0]


@pytest.mark.parametrize(
    ("changed", "faults"),
    [
        ({}, []),
        ({"missing": ["a.weight"]}, ["no name in GGUF for a.weight"]),
        ({"special": {"bos": 0}}, ["eos: None, not 1"]),
        ({"merges": 0}, ["no merges"]),
    ],
    ids=["equal", "weight", "special token", "merges"],
)
def test_a_vocabulary_without_a_part_is_a_fault(
    published: Published, changed: dict[str, Any], faults: list[str]
) -> None:
    right = {"missing": [], "special": {"bos": 0, "eos": 1}, "merges": 9}
    assert compare_names({**right, **changed}, published) == (None, faults)


def test_the_table_has_a_row_for_each_model_and_the_faults_below() -> None:
    cells = [
        Cell("one", "transformers 5", "5.23.0", 2e-7, ()),
        Cell("one", "gguf", "0.19.0", None, ()),
        Cell("two", "transformers 5", "5.23.0", 0.5, ("other logits",)),
    ]
    assert render(cells).splitlines() == [
        "| model | transformers 5 (5.23.0) | gguf (0.19.0) |",
        "|---|---|---|",
        "| one | equal (2e-07) | names |",
        "| two | differs | - |",
        "",
        "* two, transformers 5: other logits",
    ]
