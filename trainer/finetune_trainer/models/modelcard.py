"""The model card, README.md. Pure: documents in, Markdown out; no clock: a re-run writes the same bytes."""

from collections.abc import Iterator, Sequence

from finetune_trainer.config import ParentJob, TrainConfig
from finetune_trainer.contract import Chosen, Interval, Scores
from finetune_trainer.models.markdown import cell
from finetune_trainer.s3.manifest import Manifest
from finetune_trainer.tasks.protocol import Telling, telling
from finetune_trainer.training.record import TrainingRecord, sentence

_NAMES = {
    "accuracy": "accuracy",
    "macroF1": "macro F1",
    "microF1": "micro F1",
    "weightedF1": "weighted F1",
    "mcc": "Matthews correlation",
}
_LICENCE = "The base model's licence, and that of the data, apply to this model too: check both."


def render(config: TrainConfig, chosen: Chosen, staged: Manifest, record: TrainingRecord) -> str:
    """The whole card.

    Args:
        config: the trainer's input.
        chosen: what Prepare decided.
        staged: the manifest of the verified model; it says what the model was made from.
        record: what training measured.
    """
    task = telling(config.run.task)
    limits = (*task.limits(record), _LICENCE)
    parts = (
        _front_matter(task, record),
        _opening(task, config, staged, record),
        f"{_results(record)}\n\n{task.results(record)}",
        task.details(record),
        _making(config, chosen, staged, record),
        f"## Use\n\n```python\n{task.use(record)}\n```\n\n{_needs(record)}",
        "## Limits and licence\n\n" + "\n".join(f"* {limit}" for limit in limits),
    )
    return "\n\n".join(parts) + "\n"


def _front_matter(task: Telling, record: TrainingRecord) -> str:
    names = sorted(record.evaluation.baseline.metrics)
    listed = "\n".join(f"- {name}" for name in names)
    return f"---\nlibrary_name: transformers\npipeline_tag: {task.PIPELINE}\nmetrics:\n{listed}\n---"


def _opening(task: Telling, config: TrainConfig, staged: Manifest, record: TrainingRecord) -> str:
    return (
        f"# {cell(config.job.name)}\n\n"
        f"{task.kind(record)}, fine-tuned in full from "
        f"`{cell(config.run.model.uri)}` by the FineTuneJob `{config.job.namespace}/{config.job.name}` "
        f"(uid `{config.job.uid}`, training ended {staged.created}).\n\n"
        f"**{sentence(record.evaluation)}**"
    )


def _results(record: TrainingRecord) -> str:
    evaluation = record.evaluation
    header = "| metric | majority class | linear probe | this model | difference to the probe |"
    lines = [header, "|---|---|---|---|---|"]
    for name in evaluation.baseline.metrics:
        cells = [
            _interval(_of(scores, name))
            for scores in (evaluation.majority, evaluation.baseline, evaluation.tuned)
        ]
        cells.append(_interval(_of(evaluation.delta, name), signed=True))
        bold = "**" if name == evaluation.primary_metric else ""
        lines.append(f"| {bold}{_NAMES[name]}{bold} | " + " | ".join(cells) + " |")
    return (
        "## Results\n\n"
        f"Measured on {evaluation.rows} held-out test rows that no choice depended on. In brackets: 95 % "
        "percentile bootstrap intervals (1,000 resamples of the test rows; the difference is paired). "
        f"The metric that decided which epoch was kept is **{_NAMES[evaluation.primary_metric]}** on the "
        f"validation rows.\n\n" + "\n".join(lines)
    )


def _making(config: TrainConfig, chosen: Chosen, staged: Manifest, record: TrainingRecord) -> str:
    training, rows = config.run.training, record.rows
    facts = [
        ("base model", f"`{cell(config.run.model.uri)}`, {record.parameters:,} parameters"),
        ("digest of the base model", f"`{staged.base_model}`"),
        ("digest of the prepared data", f"`{staged.data}`"),
        ("digest of the configuration", f"`{staged.config}`"),
        ("rows", f"{rows['train']} training, {rows['validation']} validation, {rows['test']} test"),
        ("epochs", f"{chosen.epochs} ({chosen.total_steps} steps), kept: step {record.best.step}"),
        (
            "batch",
            (
                f"{chosen.batch_size} rows = {chosen.micro_batch_size} x {chosen.accumulation_steps} "
                f"accumulation steps x {chosen.world_size} processes"
            ),
        ),
        (
            "learning rate",
            f"{chosen.learning_rate:g}, {training.schedule.lower()}, warm-up {training.warmup_fraction:.0%}",
        ),
        (
            "optimizer",
            f"AdamW, weight decay {training.weight_decay:g}, clipping {training.max_gradient_norm:g}",
        ),
        ("maximum length", f"{chosen.max_length} tokens; longer texts are cut"),
        ("numbers", f"{record.precision}, weights float32, ZeRO stage {chosen.zero_stage}"),
        ("seed", str(training.seed)),
        (
            "ran on",
            f"{cell(record.devices)}, {record.training_seconds:.0f} s, {record.rows_per_second:.1f} rows/s",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))),
    ]
    parts = ("\n".join(_table(("what", "value"), facts)), _lineage(staged), _history(record))
    return "## How it was made\n\n" + "\n\n".join(part for part in parts if part)


def _lineage(staged: Manifest) -> str:
    """What it descends from, where the base model was published by a FineTuneJob too."""
    if not any(ancestor.published_by for ancestor in staged.lineage):
        return ""
    rows = [
        (f"`{cell(ancestor.uri)}`", f"`{ancestor.digest}`", _publisher(ancestor.published_by))
        for ancestor in staged.lineage
    ]
    return "\n".join(_table(("descends from, oldest first", "digest of its files", "published by"), rows))


def _publisher(job: ParentJob | None) -> str:
    if job is None:
        return ""
    name = f"`{cell(job.namespace)}/{cell(job.name)}`"
    return f"FineTuneJob {name} (uid `{cell(job.uid)}`, manifest `{job.manifest}`)"


def _history(record: TrainingRecord) -> str:
    rows = [
        (str(row.epoch), str(row.step), f"{row.training_loss:.4f}", f"{row.validation:.4f}")
        for row in record.history
    ]
    metric = f"{_NAMES[record.evaluation.primary_metric]} on validation rows"
    return "\n".join(_table(("epoch", "step", "training loss", metric), rows))


def _needs(record: TrainingRecord) -> str:
    return (
        f"Needs transformers {record.versions['transformers'].partition('.')[0]} or newer; there is no code "
        "in this folder. Every file is named with its SHA-256 in `manifest.json`."
    )


def _of(scores: Scores | None, name: str) -> Interval | None:
    return None if scores is None else {str(key): value for key, value in scores.metrics.items()}.get(name)


def _interval(value: Interval | None, *, signed: bool = False) -> str:
    if value is None:
        return ""
    sign = "+" if signed else ""
    return f"{value.value:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
