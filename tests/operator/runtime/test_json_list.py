"""A list parsed piece by piece equals the list that json.loads reads."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.runtime.json_list import pieces

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=5),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_the_pieces_are_the_list_that_json_loads_reads(
    items: list[Any], indent: int | str | None, items_first: bool
) -> None:
    rest = {"kind": "List", "metadata": {"continue": "x,]}"}}
    document = {"items": items} | rest if items_first else rest | {"items": items}
    found = list(pieces(f" {json.dumps(document, indent=indent)}\n"))
    assert [value for key, value in found if key == "items"] == items
    assert {key: value for key, value in found if key != "items"} == rest


def test_a_list_without_items() -> None:
    assert list(pieces('{"items":null,"metadata":{}}')) == [("metadata", {})]
    assert list(pieces("{}")) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"items":[1 2]}', '{"items":[1', '{"a" 1}', '{"a":1]'])
def test_invalid_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        list(pieces(text))
