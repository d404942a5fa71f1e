"""The whole report.html: one file that loads nothing and runs nothing; a re-run writes the same bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from pydantic import JsonValue

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Chosen, TrainPayload
from finetune_trainer.report import data, provenance, scores, training, verdict
from finetune_trainer.report.markup import Html, Section, code, foreign, joined, paragraph, tag
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.task_report import LICENCE, TaskReport
from finetune_trainer.s3.manifest import Manifest

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Should a text ever get past the escaping, the browser still runs nothing and asks nobody."""


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
    run = of.config.run
    sections = list(_sections(of, task))
    name = of.config.job.name
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{name}: fine-tuning report"),
        tag("style", Html(files(__package__).joinpath("report.css").read_text("utf-8"))),
    )
    body = tag(
        "body",
        _top(of, sections),
        tag(
            "main",
            verdict.banner(of.record, task.kind(of.record), run.model.uri),
            *map(_section, sections),
        ),
        tag("footer", paragraph("Every number on this page is in ", code("report.json"), " beside it.")),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _sections(of: Sources, task: TaskReport) -> Iterator[Section]:
    record = of.record
    yield scores.section(record.evaluation, task.results(record))
    yield from task.sections(record)
    yield training.section(record)
    yield data.section(of.data)
    yield provenance.section(
        provenance.facts(of.config, of.chosen, of.staged, record), of.config, of.staged, of.trained
    )
    limits = (*task.limits(record), LICENCE)
    yield Section("limits", "Limits and licence", (tag("ul", *(tag("li", limit) for limit in limits)),))


def _top(of: Sources, sections: list[Section]) -> Html:
    links = (tag("a", section.title, href=f"#{section.anchor}") for section in sections)
    job = of.config.job
    return tag(
        "div",
        tag("p", "Fine-tuning report ", tag("strong", foreign(f"{job.namespace}/{job.name}", 320))),
        tag("nav", *joined_by(" ", links), aria_label="Contents"),
        class_="top",
    )


def joined_by(between: str, parts: Iterator[Html]) -> list[Html]:
    """The parts with something between them."""
    every = list(parts)
    return [joined([part, between]) for part in every[:-1]] + every[-1:]


def _section(section: Section) -> Html:
    heading = f"{section.anchor}-title"
    return tag(
        "section",
        tag("h2", section.title, id=heading),
        *section.content,
        id=section.anchor,
        aria_labelledby=heading,
    )
