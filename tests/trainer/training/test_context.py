from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_trainer.config import Training
from finetune_trainer.contract import Activity, FailureClass
from finetune_trainer.data.batches import MicroBatchSize
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.packing import Packing
from finetune_trainer.paths import Paths
from finetune_trainer.tasks.registry import training_task
from finetune_trainer.training import context as stage
from finetune_trainer.training.distributed import Gang
from tests.trainer.training.contexts import context_with

ALONE = Gang(0, 0, 1, torch.device("cpu"))


class Heard:
    """A heartbeat that keeps what it is told."""

    leave_requested = False

    def __init__(self) -> None:
        self.beats: list[tuple[Activity, dict[str, object]]] = []

    def beat(self, activity: Activity, **progress: object) -> None:
        self.beats.append((activity, progress))


def context(heartbeat: Any) -> stage.Context:
    chosen = SimpleNamespace(micro_batch_size=3, micro_batch_tokens=None)
    return context_with(chosen=chosen, heartbeat=heartbeat)


@pytest.mark.parametrize(
    ("asked", "computes"), [("Auto", "float32"), ("Float32", "float32"), ("BFloat16", "bfloat16")]
)
def test_without_a_gpu_only_who_asks_for_bfloat16_gets_it(asked: Any, computes: str) -> None:
    assert stage.products_dtype(Training(precision=asked), ALONE) == computes


@pytest.mark.parametrize(("share", "percent"), [(0.0, 20.0), (0.5, 25.0), (1.0, 30.0)])
def test_a_share_of_a_part_is_told_as_percent_of_the_stage(share: float, percent: float) -> None:
    heartbeat = Heard()
    context(heartbeat).report_progress(Activity.EVALUATING, 20, 30, share)
    assert heartbeat.beats == [(Activity.EVALUATING, {"percent": percent})]


def test_packing_changes_nothing_else_of_a_run() -> None:
    before, packing = context(Heard()), Packing(pair=0, head=0)
    packed = before.with_packing(packing)
    assert packed.packing == packing
    assert replace(packed, packing=None) == before
    assert packed.with_packing(None) == before


def test_an_evaluation_computes_twice_as_many_rows_or_tokens_at_once() -> None:
    run = context(Heard())
    assert run.evaluation_size == MicroBatchSize(6, "rows")
    chosen: Any = SimpleNamespace(micro_batch_size=None, micro_batch_tokens=500)
    assert replace(run, chosen=chosen).evaluation_size == MicroBatchSize(1000, "tokens")


@pytest.mark.parametrize("lacking", ["chosen", "prepared"])
def test_a_run_that_was_not_prepared_meets_nobody(tmp_path: Any, lacking: str) -> None:
    config: Any = SimpleNamespace(**{"chosen": object(), "prepared": "sha256:0", lacking: None})
    heartbeat = Heard()
    with pytest.raises(StageFailure, match="ChosenMissing") as caught:
        stage.open_context(config, Paths(tmp_path), heartbeat, training_task("TextClassification"))
    assert caught.value.failure is FailureClass.INTERNAL
    assert heartbeat.beats == []
