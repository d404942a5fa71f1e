"""PURE: finds the columns of a file that the task does not use."""

from collections.abc import Collection, Iterable, Mapping

from finetune_trainer.data.findings import MAX_LISTED, Finding

TRAINING_COLUMN_NAMES = (
    "answer",
    "assistant",
    "chosen",
    "completion",
    "context",
    "conversations",
    "documents",
    "functions",
    "history",
    "image",
    "images",
    "input",
    "instruction",
    "messages",
    "output",
    "prompt",
    "query",
    "question",
    "rejected",
    "response",
    "system",
    "system_prompt",
    "thinking",
    "tools",
)
"""Names of columns that training programs usually read."""


def list_unused_columns(columns: Iterable[str], used: Collection[str]) -> list[str]:
    """Returns the columns that are not used, in alphabetical order, at most MAX_LISTED names."""
    return sorted(set(columns) - set(used))[:MAX_LISTED]


def warn_unused_columns(
    files: Mapping[str, Iterable[str]], used: Collection[str], home: str
) -> list[Finding]:
    """Warns of unused columns whose names are in TRAINING_COLUMN_NAMES.

    The message contains no other names, because the header of a CSV file can be a row of data.

    Args:
        files: the columns of each file of a split, by the name of the file.
        used: columns that the task reads.
        home: name of the split in the message.
    """
    unused = {name: set(columns) - set(used) for name, columns in files.items()}
    found = {
        name: sorted(column for column in columns if column.lower() in TRAINING_COLUMN_NAMES)
        for name, columns in unused.items()
    }
    found = {name: columns for name, columns in found.items() if columns}
    if not found:
        return []
    names = sorted({column for columns in found.values() for column in columns})
    return [
        Finding(
            level="warning",
            code="ColumnsUnused",
            message=f"{home} has columns that are not used: {', '.join(names)}. The model does not see their"
            f" content; the columns that are used are {', '.join(sorted(used))} (dataset.columns).",
            file=home,
            count=len(names),
            lines=tuple(f"{name}: {', '.join(columns)}" for name, columns in found.items())[:MAX_LISTED],
        )
    ]
