"""Finds the modules of a task. Only stages import this module."""

from importlib import import_module
from typing import Any, cast

from finetune_trainer.contract import TASKS, Task
from finetune_trainer.report.task_report import TaskReport
from finetune_trainer.tasks.base import TaskData, TaskModel, TrainingTask


def data_of(task: Task) -> TaskData[Any]:
    """The module `data` of a task; imports no torch."""
    return cast("TaskData[Any]", _module(task, "data"))


def model_of(task: Task) -> TaskModel:
    """The module `model` of a task; imports torch."""
    return cast("TaskModel", _module(task, "model"))


def report_of(task: Task) -> TaskReport:
    """The module `report` of a task; imports no torch."""
    return cast("TaskReport", _module(task, "report"))


def training_task(task: Task) -> TrainingTask:
    """The modules of a task that Train uses; imports torch."""
    return TrainingTask(*(_module(task, name) for name in ("model", "metrics", "report")))


def _module(task: Task, name: str) -> Any:
    return import_module(f"finetune_trainer.tasks.{TASKS[task]}.{name}")
