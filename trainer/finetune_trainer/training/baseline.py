"""What the tuned model is compared with: measured once, stored under all that it depends on."""

from functools import partial

from pydantic import NonNegativeInt, PositiveInt, ValidationError

from finetune_trainer.config import digest_of
from finetune_trainer.contract import Activity, Digest, MetricName, Model, Task
from finetune_trainer.models.packing import Packing
from finetune_trainer.tasks.base import Learning
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import from_first


class BaselineKey(Model):
    """All that a baseline depends on; its digest is the baseline's name."""

    task: Task
    model: Digest
    data: Digest
    max_length: PositiveInt
    primary_metric: MetricName
    seed: NonNegativeInt
    code: str
    """Version of what the task measures."""


class Baseline(Model):
    """What every task's baseline says of itself."""

    key: BaselineKey
    test_rows: PositiveInt
    """Test rows that it was measured on."""
    packing: Packing | None = None
    """When rows are laid end to end; None where the base model does not keep them apart."""


def measured(context: Context, before: float, after: float) -> tuple[Baseline, bool]:
    """The baseline, and whether an earlier attempt had stored it; a collective call.

    Args:
        context: the run.
        before: percent of the stage that is done.
        after: percent of the stage that is done afterwards.
    """
    run = context.config.run
    key = BaselineKey(
        task=run.task,
        model=context.base_digest,
        data=context.data_digest,
        max_length=context.chosen.max_length,
        primary_metric=run.evaluation.primary_metric,
        seed=run.training.seed,
        code=context.learning.METRIC_CODE,
    )
    where = uri(run.runs, key)
    on_progress = partial(context.report_progress, Activity.EVALUATING_BASELINE, before, after)
    on_progress(0.0)
    found = None
    if context.gang.first and context.store.head(where):
        found = read(context.learning, context.store.read(where), key, len(context.prepared.test))
    if found := from_first(context.gang, found):
        return found, True
    fresh = context.learning.measure_baseline(context, key, on_progress)
    if fresh and context.gang.first:
        context.store.write(where, fresh.model_dump_json(by_alias=True).encode())
    return from_first(context.gang, fresh), False


def uri(runs: str, key: BaselineKey) -> str:
    """Where the baseline of this key lies."""
    return f"{runs}baseline/{digest_of(key).removeprefix('sha256:')}.json"


def read(learning: Learning, document: bytes, key: BaselineKey, test_rows: int) -> Baseline | None:
    """A stored baseline, or None where it is not exactly the one that is needed."""
    try:
        baseline = learning.read_baseline(document)
    except ValidationError:
        return None
    return baseline if baseline.key == key and baseline.test_rows == test_rows else None
