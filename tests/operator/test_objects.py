from finetune_operator.objects import is_subset


def test_what_the_api_server_added_is_no_drift() -> None:
    assert is_subset(
        {"spec": {"ports": [{"port": 1}]}}, {"spec": {"ports": [{"port": 1, "protocol": "TCP"}], "x": 1}}
    )


def test_what_is_wanted_and_missing_or_other_is_drift() -> None:
    assert not is_subset({"a": 1}, {})
    assert not is_subset({"a": 1}, {"a": 2})
    assert not is_subset({"a": {}}, {"a": None})
    assert not is_subset({"a": {"b": 1}}, {"a": "b"})


def test_an_item_more_or_less_is_drift() -> None:
    assert not is_subset({"a": [1]}, {"a": [1, 2]})
    assert not is_subset({"a": [1, 2]}, {"a": [1]})
    assert not is_subset({"a": [{"b": 1}]}, {"a": [{"b": 2}]})
    assert is_subset({"a": []}, {"a": []})
