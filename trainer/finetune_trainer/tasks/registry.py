"""All tasks: one line a task. Only stages import this module."""

from importlib import import_module
from typing import Any, cast

from finetune_trainer.contract import Task
from finetune_trainer.tasks.base import Learning, Preparing, Showing, Telling

FOLDERS: dict[Task, str] = {
    "TextClassification": "text_classification",
    "TextGeneration": "text_generation",
}
"""The package of each task, below `finetune_trainer.tasks`."""


def preparing(task: Task) -> Preparing[Any]:
    """What Prepare asks; imports no torch."""
    return cast("Preparing[Any]", _module(task, "data"))


def learning(task: Task) -> Learning:
    """What Train and Publish ask; imports torch."""
    return cast("Learning", _module(task, "learning"))


def telling(task: Task) -> Telling:
    """What model card and report ask."""
    return cast("Telling", _module(task, "telling"))


def showing(task: Task) -> Showing:
    """What the report asks."""
    return cast("Showing", _module(task, "showing"))


def _module(task: Task, name: str) -> Any:
    return import_module(f"finetune_trainer.tasks.{FOLDERS[task]}.{name}")
