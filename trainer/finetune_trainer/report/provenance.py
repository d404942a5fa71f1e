"""PURE: settings, digests, versions and durations, for model card and report page."""

from dataclasses import dataclass

from finetune_trainer.config import ParentJob, TrainConfig
from finetune_trainer.contract import TITLES, Chosen, TrainPayload
from finetune_trainer.report import method, numbers
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import TEMPLATES, Section
from finetune_trainer.s3.manifest import Manifest

_BALANCED = "training rows / (classes x training rows of the class)"
ANCESTORS = ("descends from, oldest first", "digest of its files", "published by")


@dataclass(frozen=True)
class Fact:
    """A name and a value."""

    what: str
    value: str
    """Untrusted text, which the templates escape."""
    literal: bool = False
    """Whether to show the value as code, such as a digest."""


def list_facts(config: TrainConfig, chosen: Chosen, staged: Manifest, record: TrainingRecord) -> list[Fact]:
    """Returns the facts that are required to reproduce the model."""
    training, rows = config.run.training, record.rows
    return [
        Fact("base model", config.run.model.uri, literal=True),
        Fact("parameters", f"{record.parameters:,}"),
        Fact("trained", method.describe_trained_weights(config.run.method, record)),
        Fact("digest of the base model", staged.base_model, literal=True),
        Fact("digest of the prepared data", staged.data, literal=True),
        Fact("digest of the configuration", staged.config, literal=True),
        Fact("rows", f"{rows['train']} training, {rows['validation']} validation, {rows['test']} test"),
        Fact("epochs", _describe_epochs(chosen, record)),
        *_skipped_facts(record),
        Fact("batch", _describe_batch(chosen)),
        Fact(
            "learning rate",
            f"{chosen.learning_rate:g}, {training.schedule.lower()}, warm-up {training.warmup_fraction:.0%}",
        ),
        Fact(
            "optimizer",
            f"AdamW, weight decay {training.weight_decay:g}, clipping {training.max_gradient_norm:g}",
        ),
        Fact("maximum length", f"{chosen.max_length} tokens; longer texts are cut"),
        Fact(
            "data types",
            f"weights {record.weights}, matrix products {record.precision}, published {chosen.model_dtype}",
        ),
        Fact("ZeRO stage", str(chosen.zero_stage)),
        *_head_facts(config, record),
        Fact("seed", str(training.seed)),
        Fact(
            "ran on",
            f"{record.devices}, {record.training_seconds:.0f} s, {record.rows_per_second:.1f} rows/s",
        ),
        Fact("versions", ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))),
    ]


def _describe_epochs(chosen: Chosen, record: TrainingRecord) -> str:
    early = f", ended early at step {record.ended_early}" if record.ended_early else ""
    return f"{chosen.epochs} ({chosen.total_steps} steps){early}, kept: step {record.best.step}"


def _skipped_facts(record: TrainingRecord) -> list[Fact]:
    if record.skipped_step is None:
        return []
    text = f"step {record.skipped_step}: its loss or gradient was not finite, so its rows changed no weights"
    return [Fact("skipped", text)]


def _describe_batch(chosen: Chosen) -> str:
    if chosen.micro_batch_tokens:
        return (
            f"{chosen.batch_size} rows over {chosen.world_size} processes, in micro-batches of at most"
            f" {chosen.micro_batch_tokens:,} tokens"
        )
    return (
        f"{chosen.batch_size} rows = {chosen.micro_batch_size} x {chosen.accumulation_steps}"
        f" accumulation steps x {chosen.world_size} processes"
    )


def _head_facts(config: TrainConfig, record: TrainingRecord) -> list[Fact]:
    """Returns the initial weights of a classification head, and the weights of the classes."""
    if record.head_init is None and config.run.task != "TextClassification":
        return []
    start, metric = record.head_init, TITLES[config.run.evaluation.primary_metric]
    if record.head_kept:
        started = "the base model's head"
    elif start is None:
        started = "random weights"
    else:
        started = (
            f"a linear probe of {start.rows:,} training rows (C = {start.strength:g}, {metric} "
            f"{start.validation:.4f} on the validation rows)"
        )
    weights = {
        "None": [],
        "Balanced": [Fact("weight of a class in the loss", _BALANCED)],
        "SquareRoot": [Fact("weight of a class in the loss", f"the square root of: {_BALANCED}; mean 1")],
    }
    return [Fact("the head started from", started), *weights[config.run.training.class_weights]]


def list_ancestors(staged: Manifest) -> list[tuple[str, str, str]]:
    """Returns the columns ANCESTORS of each ancestor; empty if no FineTuneJob published the base model."""
    if not any(ancestor.published_by for ancestor in staged.lineage):
        return []
    return [
        (ancestor.uri, ancestor.digest, _describe_publisher(ancestor.published_by))
        for ancestor in staged.lineage
    ]


def _describe_publisher(job: ParentJob | None) -> str:
    if job is None:
        return ""
    return f"FineTuneJob {job.namespace}/{job.name} (uid {job.uid}, manifest {job.manifest})"


def section(known: list[Fact], config: TrainConfig, staged: Manifest, trained: TrainPayload) -> Section:
    """Builds the section with all facts, the ancestors and the cost of training."""
    job = config.job
    every = [
        Fact("FineTuneJob", f"{job.namespace}/{job.name}, uid {job.uid}"),
        Fact("training ended", staged.created),
        *known,
        Fact("peak memory of a process", numbers.format_size(trained.peak_memory_bytes)),
        Fact(
            "GPU time",
            numbers.format_duration(trained.gpu_seconds) if trained.gpu_seconds else "none: trained on CPUs",
        ),
        Fact("published at", config.run.output, literal=True),
    ]
    values = {"facts": every, "ancestors": list_ancestors(staged), "ancestor_columns": ANCESTORS}
    return Section("making", "How it was made", f"{TEMPLATES}/sections.html.j2", values)
