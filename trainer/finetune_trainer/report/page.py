"""Renders the report page, one HTML file without external resources. Repeated runs render the same bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Chosen, TrainPayload
from finetune_trainer.report import data, provenance, scores, training, verdict
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import TEMPLATES, Section, html
from finetune_trainer.report.task_report import TaskReport, list_all_limits
from finetune_trainer.s3.manifest import Manifest


@dataclass(frozen=True)
class Sources:
    """The documents from which the report is rendered."""

    config: TrainConfig
    chosen: Chosen
    staged: Manifest
    """Manifest of the verified model."""
    record: TrainingRecord
    trained: TrainPayload
    data: JsonValue
    """The data report; null if the report is missing."""


def render(of: Sources, task: TaskReport) -> str:
    """Renders the report page.

    Args:
        of: the documents.
        task: the texts and sections of the task.
    """
    values = {
        "job": of.config.job,
        "base": of.config.run.model.uri,
        "kind": task.kind(of.record),
        "verdict": verdict.build_verdict(of.record),
        "sections": list(_build_sections(of, task)),
    }
    return html().get_template(f"{TEMPLATES}/page.html.j2").render(values)


def _build_sections(of: Sources, task: TaskReport) -> Iterator[Section]:
    record = of.record
    yield scores.section(record.evaluation, task.results(record))
    yield from task.sections(record)
    yield training.section(record)
    yield data.section(of.data)
    yield provenance.section(
        provenance.list_facts(of.config, of.chosen, of.staged, record), of.config, of.staged, of.trained
    )
    limits = {"limits": list_all_limits(task, record)}
    yield Section("limits", "Limits and licence", f"{TEMPLATES}/sections.html.j2", limits)
