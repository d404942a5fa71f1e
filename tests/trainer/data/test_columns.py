from finetune_trainer.data.columns import list_unused_columns, warn_unused_columns

USED = frozenset({"messages", "prompt", "completion", "text"})


def test_columns_that_probably_matter_are_warned_of() -> None:
    files = {"a.jsonl": ["messages", "tools", "id"], "b.jsonl": ["prompt", "completion", "System", "input"]}
    (finding,) = warn_unused_columns(files, USED, "dataset.train (2 files)")
    assert (finding.level, finding.code, finding.count) == ("warning", "ColumnsUnused", 3)
    assert "dataset.train (2 files) has columns that are not used: System, input, tools." in finding.message
    assert finding.message.endswith("are completion, messages, prompt, text (dataset.columns).")
    assert finding.lines == ("a.jsonl: tools", "b.jsonl: System, input")


def test_other_columns_are_only_listed() -> None:
    assert warn_unused_columns({"a": ["text", "id", "My card is stolen"]}, USED, "s3://d/a") == []
    assert list_unused_columns(["text", "id", "b"], USED) == ["b", "id"]
