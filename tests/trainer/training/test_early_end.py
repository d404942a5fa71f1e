"""The selection of a checkpoint by an attempt that ends the training early; the evaluation is a stand-in."""

from types import SimpleNamespace
from typing import Any

import pytest

from finetune_trainer.contract import Best, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.training import early_end
from finetune_trainer.training.curve import Curve
from finetune_trainer.training.loop_state import BestWeights, LoopState
from tests.trainer.checkpoints.test_documents import CHOSEN
from tests.trainer.training.contexts import context_with

UNKNOWN = LoopState(curve=Curve(total_steps=100))
BEST = BestWeights(score=Best(step=10, metric=0.5), checkpoint="00000010-1-best")
KNOWN = UNKNOWN.evaluated(0.1, 10, 0.5).model_copy(update={"best": BEST})


def finish(
    monkeypatch: pytest.MonkeyPatch, loops: dict[int, dict[str, Any]], failing: dict[int, str]
) -> early_end.Tuned:
    """Ends a training early that has checkpoints at steps, newest first, with states of the loop."""

    def evaluated(_: object, state: LoopState, step: int, epoch: float, name: str, __: str) -> LoopState:
        if step in failing:
            raise StageFailure(FailureClass.STORAGE, failing[step], "damaged")
        best = BestWeights(score=Best(step=step, metric=0.9), checkpoint=name)
        return state.evaluated(epoch, step, 0.9).model_copy(update={"best": best})

    found = [
        SimpleNamespace(name=f"{step:08d}-1-a", manifest=SimpleNamespace(step=step, loop=loop))
        for step, loop in loops.items()
    ]
    monkeypatch.setattr(early_end, "candidates", lambda *_: iter(found))
    monkeypatch.setattr(early_end, "identity_of", lambda *_: "")
    monkeypatch.setattr(early_end, "folder_of", lambda *_: "s3://runs/")
    monkeypatch.setattr(early_end, "_evaluated", evaluated)
    config = SimpleNamespace(run=SimpleNamespace(runs="s3://runs/"))
    return early_end.finish(
        context_with(config=config, chosen=CHOSEN, prepared=SimpleNamespace(train=range(101)))
    )


def dumped(state: LoopState) -> dict[str, Any]:
    return state.model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize(
    ("loops", "failing", "checkpoint", "steps"),
    [
        ({30: dumped(KNOWN), 20: dumped(KNOWN)}, {}, "00000030-1-a", 30),
        ({30: dumped(KNOWN), 20: dumped(KNOWN)}, {30: "ObjectCorrupt"}, "00000010-1-best", 30),
        ({30: dumped(UNKNOWN), 20: dumped(KNOWN)}, {30: "ObjectCorrupt"}, "00000020-1-a", 20),
        ({30: {"curve": 1}, 20: dumped(KNOWN)}, {}, "00000020-1-a", 20),
    ],
    ids=["whole", "best-of-the-same-state", "no-best", "unreadable-state"],
)
def test_a_damaged_checkpoint_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
    loops: dict[int, dict[str, Any]],
    failing: dict[int, str],
    checkpoint: str,
    steps: int,
) -> None:
    tuned = finish(monkeypatch, loops, failing)
    assert (tuned.checkpoint, tuned.steps) == (f"s3://runs/{checkpoint}/", steps)


def test_without_a_readable_checkpoint_the_attempt_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageFailure, match="CheckpointMissing"):
        finish(monkeypatch, {30: dumped(UNKNOWN)}, {30: "ObjectCorrupt"})


def test_the_newest_weights_are_evaluated_with_the_quantized_weights_of_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Loaded(Exception):  # noqa: N818 - not an error
        pass

    def ready(_: object, model: str) -> None:
        raise Loaded(model)

    monkeypatch.setattr(early_end, "ready", ready)
    context: Any = SimpleNamespace(
        prepared=None,
        task=None,
        heartbeat=SimpleNamespace(beat=lambda *_, **__: None),
        config=SimpleNamespace(
            run=SimpleNamespace(evaluation=SimpleNamespace(primary_metric="loss")), hang_timeout_seconds=60
        ),
        load_model=lambda: "whole",
        load_for_training=lambda: "quantized",
    )
    with pytest.raises(Loaded, match="quantized"):
        early_end._evaluated(context, UNKNOWN, 10, 0.1, "00000010-1-a", "s3://runs/00000010-1-a/")


def test_a_failure_of_the_store_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageFailure, match="StorageUnreachable"):
        finish(monkeypatch, {30: dumped(KNOWN)}, {30: "StorageUnreachable"})
