"""PURE: columns of a file that the task does not use."""

from collections.abc import Collection, Iterable, Mapping

from finetune_trainer.data.findings import LISTED, Finding

MEANINGFUL = (
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
"""Names that other tools give to columns which a model learns from."""


def unused(columns: Iterable[str], used: Collection[str]) -> list[str]:
    """The columns that are not used, in alphabetical order, at most LISTED."""
    return sorted(set(columns) - set(used))[:LISTED]


def columns_unused(files: Mapping[str, Iterable[str]], used: Collection[str], home: str) -> list[Finding]:
    """Warns of unused columns that probably matter.

    The message shows names of MEANINGFUL only: the first line of a CSV file without a header has values of a
    row.

    Args:
        files: the columns of each file of a split, by the name of the file.
        used: columns that the task reads.
        home: the split, for the message.
    """
    found = {
        name: matter
        for name, columns in files.items()
        if (matter := sorted(column for column in set(columns) - set(used) if column.lower() in MEANINGFUL))
    }
    if not found:
        return []
    names = sorted({column for matter in found.values() for column in matter})
    return [
        Finding(
            level="warning",
            code="ColumnsUnused",
            message=f"{home} has columns that are not used: {', '.join(names)}. The model does not see their"
            f" content; the columns that are used are {', '.join(sorted(used))} (dataset.columns).",
            file=home,
            count=len(names),
            lines=tuple(f"{name}: {', '.join(matter)}" for name, matter in found.items())[:LISTED],
        )
    ]
