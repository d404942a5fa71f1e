"""The Prometheus gauges that show the fields of a progress document."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_trainer.contract.progress import Progress

GAUGE_LABELS = ("namespace", "finetunejob", "attempt", "stage")


@dataclass(frozen=True)
class Gauge:
    """A gauge that shows one field of Progress."""

    name: str
    field: str
    text: str
    factor: float = 1.0
    """The value of the gauge divided by the value of the field."""


GAUGES = (
    Gauge(
        "finetune_trainer_progress_ratio", "percent", "Share of the stage that is done, 0 to 1.", factor=0.01
    ),
    Gauge("finetune_trainer_rows", "rows", "Rows of the data that Prepare has read, tokenised or stored."),
    Gauge("finetune_trainer_tokens", "tokens", "Tokens of the rows that Prepare has tokenised."),
    Gauge("finetune_trainer_step", "step", "Optimizer steps done."),
    Gauge("finetune_trainer_planned_steps", "total_steps", "Optimizer steps of the whole run."),
    Gauge(
        "finetune_trainer_checkpoint_step",
        "checkpoint_step",
        "Optimizer step of the newest complete checkpoint.",
    ),
    Gauge(
        "finetune_trainer_checkpoint_timestamp_seconds",
        "checkpoint_time",
        "Unix time at which the newest checkpoint was complete.",
    ),
    Gauge(
        "finetune_trainer_checkpoint_pause_seconds",
        "checkpoint_pause_seconds",
        "Duration for which the newest checkpoint paused training.",
    ),
    Gauge(
        "finetune_trainer_checkpoint_resumed_step",
        "resumed_from_step",
        "Optimizer step of the checkpoint from which the attempt resumed.",
    ),
    Gauge("finetune_trainer_epoch", "epoch", "Passes over the training rows, with a fractional part."),
    Gauge("finetune_trainer_loss", "loss", "Training loss at the last step."),
    Gauge("finetune_trainer_learning_rate", "learning_rate", "Learning rate at the last step."),
    Gauge(
        "finetune_trainer_gradient_norm",
        "gradient_norm",
        "Norm of all gradients before clipping at the last step.",
    ),
    Gauge(
        "finetune_trainer_validation_score",
        "validation",
        "Primary metric on the validation rows, newest value.",
    ),
    Gauge(
        "finetune_trainer_tokens_per_second",
        "tokens_per_second",
        "Throughput of all processes together, in tokens.",
    ),
    Gauge(
        "finetune_trainer_samples_per_second",
        "samples_per_second",
        "Throughput of all processes together, in rows.",
    ),
    Gauge(
        "finetune_trainer_mfu_ratio",
        "mfu",
        "Model FLOPs utilisation: FLOPs that the model needs for the trained tokens, as a share of the"
        " bfloat16 peak of all GPUs, 0 to 1.",
    ),
    Gauge(
        "finetune_trainer_slowest_rank",
        "slowest_rank",
        "Rank whose matrix product took longest, in the newest comparison of the ranks.",
    ),
    Gauge(
        "finetune_trainer_slowest_rank_slowdown",
        "slowest_rank_ratio",
        "Duration of the matrix product of the slowest rank, divided by the median of all ranks; at least 1.",
    ),
    Gauge(
        "finetune_trainer_all_reduce_bytes_per_second",
        "all_reduce_bytes_per_second",
        "Bytes that each rank sends per second in an all-reduce, in the newest comparison of the ranks.",
    ),
    Gauge("finetune_trainer_eta_seconds", "eta_seconds", "Estimated time to the end of the stage."),
    Gauge(
        "finetune_trainer_peak_memory_bytes",
        "peak_memory_bytes",
        "Peak memory of rank 0 (GPU memory on GPUs).",
    ),
    Gauge(
        "finetune_trainer_heartbeat_timestamp_seconds",
        "heartbeat",
        "Unix time of the last heartbeat of rank 0.",
    ),
)


def gauge_values(progress: Progress) -> Iterator[tuple[Gauge, float]]:
    """Yields each gauge with its value; gauges whose value is not known are left out."""
    for gauge in GAUGES:
        value = getattr(progress, gauge.field)
        if value is not None:
            yield gauge, value if gauge.factor == 1 else value * gauge.factor
