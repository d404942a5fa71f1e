"""The model card, README.md. Pure: documents in, Markdown out; no clock: a re-run writes the same bytes."""

from collections.abc import Iterator, Sequence

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Chosen, Interval, Scores
from finetune_trainer.s3.manifest import Manifest
from finetune_trainer.training.record import TrainingRecord, sentence

_NAMES = {
    "accuracy": "accuracy",
    "macroF1": "macro F1",
    "microF1": "micro F1",
    "weightedF1": "weighted F1",
    "mcc": "Matthews correlation",
}
_MOST_CLASSES = 100


def render(config: TrainConfig, chosen: Chosen, staged: Manifest, record: TrainingRecord) -> str:
    """The whole card.

    Args:
        config: the trainer's input.
        chosen: what Prepare decided.
        staged: the manifest of the verified model; it says what the model was made from.
        record: what training measured.
    """
    parts = (
        _front_matter(record),
        _opening(config, staged, record),
        _results(record),
        _classes(record),
        _making(config, chosen, staged, record),
        _use(record),
        _limits(record),
    )
    return "\n\n".join(parts) + "\n"


def _front_matter(record: TrainingRecord) -> str:
    names = sorted(record.evaluation.baseline.metrics)
    listed = "\n".join(f"- {name}" for name in names)
    return f"---\nlibrary_name: transformers\npipeline_tag: text-classification\nmetrics:\n{listed}\n---"


def _opening(config: TrainConfig, staged: Manifest, record: TrainingRecord) -> str:
    return (
        f"# {cell(config.job.name)}\n\n"
        f"A text classifier with {len(record.labels)} classes, fine-tuned in full from "
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
        f"validation rows.\n\n" + "\n".join(lines) + "\n\n"
        "The linear probe is a logistic regression on the frozen, mean-pooled features of the base model "
        f"({record.probe.rows} training rows, C = {record.probe.strength:g} chosen on validation rows). "
        f"Against it, this model has {record.fixed} test rows right that the probe has wrong, and "
        f"{record.broken} wrong that the probe has right. All predictions are in "
        "`evaluation/predictions.jsonl`, confusion matrices in `report.json`."
    )


def _classes(record: TrainingRecord) -> str:
    rows = record.classes["tuned"]
    shown = sorted(rows, key=lambda row: -row.support)[:_MOST_CLASSES]
    lines = ["| class | precision | recall | F1 | test rows |", "|---|---|---|---|---|"]
    lines += [
        f"| {cell(row.label)} | {row.precision:.3f} | {row.recall:.3f} | {row.f1:.3f} | {row.support} |"
        for row in shown
    ]
    left = len(rows) - len(shown)
    more = f"\n\nThe {left} rarest classes are in `report.json`." if left else ""
    return "## Classes\n\n" + "\n".join(lines) + more


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
    return "## How it was made\n\n" + "\n".join(_table(("what", "value"), facts)) + "\n\n" + _history(record)


def _history(record: TrainingRecord) -> str:
    rows = [
        (str(row.epoch), str(row.step), f"{row.training_loss:.4f}", f"{row.validation:.4f}")
        for row in record.history
    ]
    metric = f"{_NAMES[record.evaluation.primary_metric]} on validation rows"
    return "\n".join(_table(("epoch", "step", "training loss", metric), rows))


def _use(record: TrainingRecord) -> str:
    return (
        "## Use\n\n"
        "```python\n"
        "from transformers import pipeline\n\n"
        'classify = pipeline("text-classification", model="path/to/this/folder")\n'
        'classify("...")\n'
        "```\n\n"
        f"Needs transformers {record.versions['transformers'].partition('.')[0]} or newer; there is no code "
        "in this folder. Every file is named with its SHA-256 in `manifest.json`."
    )


def _limits(record: TrainingRecord) -> str:
    rare = [row.label for row in record.classes["tuned"] if 0 < row.support < 10]  # noqa: PLR2004
    notes = [
        (
            "It knows only the classes above and answers with one of them for every text, also for one that "
            "belongs to none."
        ),
        (
            "The figures hold for texts like the test rows. The bootstrap covers the choice of test rows, "
            "not another seed, another split, or a change of what people write."
        ),
        "Its probabilities were not calibrated.",
    ]
    if rare:
        notes.append(f"Classes with fewer than 10 test rows, whose figures say little: {_listed(rare)}.")
    notes.append("The base model's licence, and that of the data, apply to this model too: check both.")
    return "## Limits and licence\n\n" + "\n".join(f"* {note}" for note in notes)


def cell(text: str) -> str:
    """A text from outside, safe inside a Markdown table: one line, nothing that is markup."""
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in flat)


def _of(scores: Scores | None, name: str) -> Interval | None:
    return None if scores is None else {str(key): value for key, value in scores.metrics.items()}.get(name)


def _interval(value: Interval | None, *, signed: bool = False) -> str:
    if value is None:
        return ""
    sign = "+" if signed else ""
    return f"{value.value:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"


def _listed(labels: Sequence[str], most: int = 10) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(cell(label) for label in labels[:most]) + more


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
