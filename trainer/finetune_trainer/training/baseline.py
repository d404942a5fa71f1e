"""The baseline: measured once, and stored under the digest of everything that the baseline depends on."""

from functools import partial

from pydantic import ValidationError

from finetune_trainer.config import digest_of
from finetune_trainer.contract import Activity
from finetune_trainer.tasks.base import Baseline, BaselineKey, TaskModel
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import broadcast_object
from finetune_trainer.training.evaluate import Evaluator
from finetune_trainer.training.evaluation_engine import ready


def measure(context: Context, before: float, after: float) -> tuple[Baseline, bool]:
    """Reads the stored baseline, or measures and stores the baseline. A collective operation.

    Args:
        context: the run.
        before: progress of the stage before the baseline, in percent.
        after: progress of the stage after the baseline, in percent.

    Returns:
        The baseline, and whether an earlier attempt had stored the baseline.
    """
    run, task = context.config.run, context.task.model
    key = BaselineKey(
        task=run.task,
        model=context.base_digest,
        data=context.data_digest,
        max_length=context.chosen.max_length,
        primary_metric=run.evaluation.primary_metric,
        precision=context.dtypes.products,
        weights=context.dtypes.weights,
        seed=run.training.seed,
        code=task.METRIC_CODE,
    )
    where = uri(run.runs, key)
    on_progress = partial(context.report_progress, Activity.EVALUATING_BASELINE, before, after)
    on_progress(0.0)
    found = None
    if context.gang.first and context.store.head(where):
        found = read(task, context.store.read(where), key, len(context.prepared.test))
    if found := broadcast_object(context.gang, found):
        return found, True
    with ready(context, context.load_for_baseline()) as model:
        # Rounding may make ranks decide differently, but all ranks must pack alike.
        packing = broadcast_object(context.gang, task.packing_of(model))
        common = Baseline(key=key, test_rows=len(context.prepared.test), packing=packing)
        measured = task.measure_baseline(context.inputs, common, model, Evaluator(context), on_progress)
    if context.gang.first:
        context.store.write(where, measured.model_dump_json(by_alias=True).encode())
    return broadcast_object(context.gang, measured), False


def uri(runs: str, key: BaselineKey) -> str:
    """The URI of the stored baseline of a key."""
    return f"{runs}baseline/{digest_of(key).removeprefix('sha256:')}.json"


def read(task: TaskModel, document: bytes, key: BaselineKey, test_rows: int) -> Baseline | None:
    """Reads a stored baseline; None where the document is another baseline or cannot be read."""
    try:
        baseline = task.read_baseline(document)
    except ValidationError:
        return None
    return baseline if baseline.key == key and baseline.test_rows == test_rows else None
