"""The report page, report.html: one file without external resources. A re-run writes the same bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Chosen, TrainPayload
from finetune_trainer.report import data, provenance, scores, training, verdict
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import TEMPLATES, Section, html
from finetune_trainer.report.task_report import TaskReport, all_limits
from finetune_trainer.s3.manifest import Manifest


@dataclass(frozen=True)
class Sources:
    """All that the report is made from."""

    config: TrainConfig
    chosen: Chosen
    staged: Manifest
    """Of the verified model; it says what the model was made from."""
    record: TrainingRecord
    trained: TrainPayload
    data: JsonValue
    """The data report; null where it is gone."""


def render(of: Sources, task: TaskReport) -> str:
    """Renders the whole page."""
    values = {
        "job": of.config.job,
        "base": of.config.run.model.uri,
        "kind": task.kind(of.record),
        "verdict": verdict.summary(of.record),
        "sections": list(_sections(of, task)),
    }
    return html().get_template(f"{TEMPLATES}/page.html.j2").render(values)


def _sections(of: Sources, task: TaskReport) -> Iterator[Section]:
    record = of.record
    yield scores.section(record.evaluation, task.results(record))
    yield from task.sections(record)
    yield training.section(record)
    yield data.section(of.data)
    yield provenance.section(
        provenance.facts(of.config, of.chosen, of.staged, record), of.config, of.staged, of.trained
    )
    limits = {"limits": all_limits(task, record)}
    yield Section("limits", "Limits and licence", f"{TEMPLATES}/sections.html.j2", limits)
