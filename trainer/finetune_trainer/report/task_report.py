"""The part of the report and of the model card that each task writes."""

from collections.abc import Sequence
from typing import Protocol

from finetune_trainer.report.markup import Section
from finetune_trainer.report.record import TrainingRecord

LICENCE = "The base model's licence, and that of the data, apply to this model too: check both."
"""A limit of every task."""


class TaskReport(Protocol):
    """Texts and sections about one task; module `report` of the task."""

    @property
    def PIPELINE(self) -> str:  # noqa: N802 - a module's constant
        """The name of the task on model hubs."""

    @property
    def AUTO(self) -> str:  # noqa: N802
        """The class of transformers that loads the model."""

    def kind(self, record: TrainingRecord) -> str:
        """The kind of model, such as `A text classifier with 3 classes`."""

    def results(self, record: TrainingRecord) -> str:
        """How to read the table of metrics; names stand in backticks, nothing else is markup."""

    def details(self, record: TrainingRecord) -> str:
        """The section of the card with the figures that only this task has, as Markdown."""

    def use(self, record: TrainingRecord) -> str:
        """Python code that uses the model."""

    def limits(self, record: TrainingRecord) -> list[str]:
        """What the model cannot do, as plain text, which may contain labels."""

    def sections(self, record: TrainingRecord) -> Sequence[Section]:
        """Sections of the page, in order."""
