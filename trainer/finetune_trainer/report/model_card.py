"""The model card, README.md. Pure: documents in, Markdown out; no clock: a re-run writes the same bytes."""

from collections.abc import Iterator, Sequence

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import (
    HIGHER_IS_BETTER,
    TITLES,
    Chosen,
    Evaluation,
    Interval,
    MetricName,
    Scores,
)
from finetune_trainer.models import method_facts
from finetune_trainer.report import method, provenance
from finetune_trainer.report.markdown import cell
from finetune_trainer.report.record import TrainingRecord, base_name, sentence
from finetune_trainer.report.task_report import LICENCE, TaskReport
from finetune_trainer.s3.manifest import Manifest


def render(
    config: TrainConfig, chosen: Chosen, staged: Manifest, record: TrainingRecord, task: TaskReport
) -> str:
    """The whole card.

    Args:
        config: the trainer's input.
        chosen: what Prepare decided.
        staged: the manifest of the verified model; it says what the model was made from.
        record: the results of training.
        task: the texts of the task.
    """
    method_limits = (text for _, text in method_facts.limits(record.method, record.parameters))
    limits = (*task.limits(record), *method_limits, LICENCE)
    parts = (
        _front_matter(task, config, record),
        _opening(task, config, staged, record),
        f"{_results(record)}\n\n{task.results(record)}",
        task.details(record),
        _making(config, chosen, staged, record),
        f"## Use\n\n{_use(task, config, record)}\n\n{_needs(record)}",
        "## Limits and licence\n\n" + "\n".join(f"* {cell(limit)}" for limit in limits),
    )
    return "\n\n".join(parts) + "\n"


def _front_matter(task: TaskReport, config: TrainConfig, record: TrainingRecord) -> str:
    library = "peft" if method.needs_base(config.run.method) else "transformers"
    names = sorted(record.evaluation.baseline.metrics)
    listed = "\n".join(f"- {name}" for name in names)
    return f"---\nlibrary_name: {library}\npipeline_tag: {task.PIPELINE}\nmetrics:\n{listed}\n---"


def _opening(task: TaskReport, config: TrainConfig, staged: Manifest, record: TrainingRecord) -> str:
    return (
        f"# {cell(config.job.name)}\n\n"
        f"{task.kind(record)}, fine-tuned {method.tuned_how(config.run.method)} from "
        f"`{cell(config.run.model.uri)}` by the FineTuneJob `{config.job.namespace}/{config.job.name}` "
        f"(uid `{config.job.uid}`, training ended {staged.created}).\n\n"
        f"**{sentence(record.evaluation)}**"
    )


def _results(record: TrainingRecord) -> str:
    evaluation = record.evaluation
    columns = _columns(evaluation)
    rows = []
    for name in evaluation.baseline.metrics:
        cells = [_interval(scores.metrics.get(name)) for _, scores in columns]
        gain = evaluation.delta.metrics.get(name) if evaluation.delta else None
        bold = "**" if name == evaluation.primary_metric else ""
        rows.append((f"{bold}{_titled(name)}{bold}", *cells, _interval(gain, signed=True)))
    titles = [title for title, _ in columns]
    table = _table(("metric", *titles, f"difference to the {base_name(evaluation)}"), rows)
    return (
        "## Results\n\n"
        f"Measured on {evaluation.rows} held-out test rows that no choice depended on. In brackets: 95 % "
        "percentile bootstrap intervals (1,000 resamples of the test rows; the difference is paired). "
        f"The metric that decided which epoch was kept is **{TITLES[evaluation.primary_metric]}** on the "
        f"validation rows.\n\n" + "\n".join(table)
    )


def _columns(evaluation: Evaluation) -> list[tuple[str, Scores]]:
    """The models that were measured, the weakest first."""
    models = (
        ("majority class", evaluation.majority),
        (base_name(evaluation), evaluation.baseline),
        ("this model", evaluation.tuned),
    )
    return [(title, scores) for title, scores in models if scores]


def _titled(name: MetricName) -> str:
    return TITLES[name] if HIGHER_IS_BETTER[name] else f"{TITLES[name]} (lower is better)"


def _making(config: TrainConfig, chosen: Chosen, staged: Manifest, record: TrainingRecord) -> str:
    facts = [
        (fact.what, f"`{cell(fact.value)}`" if fact.literal else cell(fact.value))
        for fact in provenance.facts(config, chosen, staged, record)
    ]
    parts = ("\n".join(_table(("what", "value"), facts)), _lineage(staged), _history(record))
    return "## How it was made\n\n" + "\n\n".join(part for part in parts if part)


def _lineage(staged: Manifest) -> str:
    rows = [
        (f"`{cell(uri)}`", f"`{digest}`", cell(publisher))
        for uri, digest, publisher in provenance.ancestors(staged)
    ]
    return "\n".join(_table(provenance.ANCESTORS, rows)) if rows else ""


def _history(record: TrainingRecord) -> str:
    rows = [
        (str(row.epoch), str(row.step), f"{row.training_loss:.4f}", f"{row.validation:.4f}")
        for row in record.history
    ]
    metric = f"{TITLES[record.evaluation.primary_metric]} on validation rows"
    return "\n".join(_table(("epoch", "step", "training loss", metric), rows))


def _use(task: TaskReport, config: TrainConfig, record: TrainingRecord) -> str:
    whole = f"```python\n{task.use(record)}\n```"
    if not method.needs_base(config.run.method):
        return whole
    return (
        f"This folder holds an adapter for `{cell(config.run.model.uri)}`, whose digest is above, and needs "
        f"that model:\n\n```python\n{method.loading(task.AUTO)}\n```\n\n"
        "`model.save_pretrained` makes a whole model of it, which is used like any other."
    )


def _needs(record: TrainingRecord) -> str:
    version = record.versions["transformers"]
    readers = (
        f"Needs transformers {version.partition('.')[0]} or newer: config.json says something that older "
        "readers do not know"
        if record.needs_transformers_5
        else f"Saved by transformers {version}. config.json also has the keys that transformers 4 reads "
        "(`torch_dtype`, `rope_theta`, `rope_scaling` and the like), for readers of that version that know "
        "this type of model"
    )
    return (
        f"{readers}. There is no code in this folder. Every file is named with its SHA-256 in "
        "`manifest.json`."
    )


def _interval(value: Interval | None, *, signed: bool = False) -> str:
    if value is None:
        return ""
    sign = "+" if signed else ""
    return f"{value.value:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
