"""The part of the report and of the model card that each task writes."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from finetune_trainer.models import method_facts
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import Section

LICENCE = "The base model's licence, and that of the data, apply to this model too: check both."
"""A limit of every task."""


class TaskReport(Protocol):
    """Texts, sections and templates of one task; module `report` of the task."""

    @property
    def PIPELINE(self) -> str:  # noqa: N802 - a module's constant
        """The name of the task on model hubs."""

    @property
    def AUTO(self) -> str:  # noqa: N802
        """The class of transformers that loads the model."""

    @property
    def CARD(self) -> str:  # noqa: N802
        """The template of the card, by its path below `finetune_trainer`.

        The template extends `report/templates/card.md.j2` with two blocks: `details`, the section with the
        figures that only this task has, and `use`, Python code that uses the model.
        """

    def kind(self, record: TrainingRecord) -> str:
        """The kind of model, such as `A text classifier with 3 classes`."""

    def results(self, record: TrainingRecord) -> str:
        """How to read the table of metrics; names stand in backticks, nothing else is markup."""

    def limits(self, record: TrainingRecord) -> list[str]:
        """What the model cannot do, as plain text, which may contain labels."""

    def card(self, record: TrainingRecord) -> Mapping[str, object]:
        """The values of the template `CARD` that only this task has."""

    def sections(self, record: TrainingRecord) -> Sequence[Section]:
        """Sections of the page, in order."""


def all_limits(task: TaskReport, record: TrainingRecord) -> tuple[str, ...]:
    """The limits of the task, of the method and of the licence; the card and the page show the same."""
    of_method = (text for _, text in method_facts.limits(record.method, record.parameters))
    return (*task.limits(record), *of_method, LICENCE)
