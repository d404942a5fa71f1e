"""What the tuned model is compared with: measured once, stored under all that it depends on."""

from functools import partial

from pydantic import NonNegativeInt, PositiveInt, ValidationError

from finetune_trainer.config import digest_of
from finetune_trainer.contract import Activity, Digest, MetricName, Model, Task
from finetune_trainer.models.packing import Packing
from finetune_trainer.tasks.base import Learning
from finetune_trainer.training.context import Scene
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


def measured(scene: Scene, before: float, after: float) -> tuple[Baseline, bool]:
    """The baseline, and whether an earlier attempt had stored it; a collective call.

    Args:
        scene: the run.
        before: percent of the stage that is done.
        after: percent of the stage that is done afterwards.
    """
    run = scene.config.run
    key = BaselineKey(
        task=run.task,
        model=scene.base_digest,
        data=scene.data_digest,
        max_length=scene.chosen.max_length,
        primary_metric=run.evaluation.primary_metric,
        seed=run.training.seed,
        code=scene.learning.METRIC_CODE,
    )
    where = uri(run.runs, key)
    advanced = partial(scene.tell, Activity.EVALUATING_BASELINE, before, after)
    advanced(0.0)
    found = None
    if scene.gang.first and scene.store.head(where):
        found = read(scene.learning, scene.store.read(where), key, len(scene.prepared.test))
    if found := from_first(scene.gang, found):
        return found, True
    fresh = scene.learning.measure_baseline(scene, key, advanced)
    if fresh and scene.gang.first:
        scene.store.write(where, fresh.model_dump_json(by_alias=True).encode())
    return from_first(scene.gang, fresh), False


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
