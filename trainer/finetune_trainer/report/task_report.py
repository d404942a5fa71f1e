"""The protocol of the task's part of the report page and of the model card."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from finetune_trainer.models import method_facts
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import Section

LICENCE = "The base model's licence, and that of the data, apply to this model too: check both."
"""A limit of all tasks."""


class TaskReport(Protocol):
    """Texts, sections and templates of one task; module `report` of the task."""

    @property
    def PIPELINE(self) -> str:  # noqa: N802 - a module's constant
        """The name of the task on model hubs."""

    @property
    def AUTO_CLASS(self) -> str:  # noqa: N802
        """The name of the class of transformers that loads the model."""

    @property
    def CARD(self) -> str:  # noqa: N802
        """The template of the card, by its path below `finetune_trainer`.

        The template extends `report/templates/card.md.j2` with two blocks: `details`, the section with the
        figures that only this task has, and `use`, Python code that uses the model.
        """

    def serving(self, *, adapter: bool) -> Sequence[str]:
        """The names of the files in `serving/`, which are templates in `report/templates/serving`.

        Args:
            adapter: whether the published files are an adapter.
        """

    def kind(self, record: TrainingRecord) -> str:
        """The kind of model, such as `A text classifier with 3 classes`."""

    def results(self, record: TrainingRecord) -> str:
        """Explanation of the metrics; names are in backticks, which are the only markup."""

    def limits(self, record: TrainingRecord) -> list[str]:
        """The limits of the model as plain text, which can contain labels."""

    def card(self, record: TrainingRecord) -> Mapping[str, object]:
        """The task's own values for the template `CARD`."""

    def sections(self, record: TrainingRecord) -> Sequence[Section]:
        """Sections of the page, in order."""


def list_all_limits(task: TaskReport, record: TrainingRecord) -> tuple[str, ...]:
    """Returns the limits of the task, the method and the licence, for the model card and the report page."""
    of_method = (text for _, text in method_facts.list_limits(record.method, record.parameters))
    return (*task.limits(record), *of_method, LICENCE)
