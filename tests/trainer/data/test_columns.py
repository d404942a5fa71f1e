from finetune_trainer.data.columns import columns_unused, unused

USED = frozenset({"messages", "prompt", "completion", "text"})


def test_columns_that_probably_matter_are_warned_of() -> None:
    files = {"a.jsonl": ["messages", "tools", "id"], "b.jsonl": ["prompt", "completion", "System", "input"]}
    (finding,) = columns_unused(files, USED, "dataset.train (2 files)")
    assert (finding.level, finding.code, finding.count) == ("warning", "ColumnsUnused", 3)
    assert "dataset.train (2 files) has columns that are not used: System, input, tools." in finding.message
    assert finding.message.endswith("are completion, messages, prompt, text (dataset.columns).")
    assert finding.lines == ("a.jsonl: tools", "b.jsonl: System, input")


def test_other_columns_are_only_listed() -> None:
    assert columns_unused({"a": ["text", "id", "My card is stolen"]}, USED, "s3://d/a") == []
    assert unused(["text", "id", "b"], USED) == ["b", "id"]
