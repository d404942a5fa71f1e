"""A gang of one that saves checkpoints to a store with faults; the engine is only its parts."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from finetune_trainer.checkpoints.files import Part
from finetune_trainer.checkpoints.listing import Checkpoint, list_checkpoints
from finetune_trainer.config import Checkpoints, StoreAccess, World
from finetune_trainer.contract import Activity, Best, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store, open_store
from finetune_trainer.s3.uploads import UPLOAD_SILENCE_SECONDS
from finetune_trainer.training import checkpointing
from finetune_trainer.training.checkpointing import Checkpointer
from finetune_trainer.training.curve import Curve
from finetune_trainer.training.distributed import Gang
from finetune_trainer.training.loop_state import BestWeights, LoopState
from tests.trainer.checkpoints.test_documents import BASE, CHOSEN, DATA
from tests.trainer.checkpoints.written import gated, until
from tests.trainer.runs import CLASSIFICATION
from tests.trainer.storeproxy import StoreProxy
from tests.trainer.training.contexts import FLOAT32, context_with

ENGINE = SimpleNamespace(module=torch.nn.Linear(2, 2))
STATE = LoopState(curve=Curve(total_steps=100))
Make = Callable[..., Checkpointer]


class Progress:
    """A heartbeat that keeps the progress."""

    leave_requested = False

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}

    def beat(self, *_: object, **fields: Any) -> None:
        self.fields |= fields


@pytest.fixture
def make(s3_proxy: StoreProxy, paths: Paths, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes checkpointers whose requests pass the proxy."""
    parts = [Part("weight", "weight", 0, torch.zeros(4))]
    monkeypatch.setattr(checkpointing.engine_state, "complete_moments", lambda _: None)
    monkeypatch.setattr(checkpointing.engine_state, "owned_parts", lambda *_: parts)
    monkeypatch.setattr("finetune_trainer.checkpoints.saver._PAUSE_SECONDS", 0.01)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    def of(
        checkpoints: Checkpoints | None = Checkpoints(every_seconds=60),  # noqa: B008
        attempt: int = 1,
    ) -> Checkpointer:
        run = CLASSIFICATION.model_copy(update={"runs": f"s3://{bucket}/runs/"})
        return Checkpointer(
            context_with(
                config=SimpleNamespace(
                    run=run, checkpoints=checkpoints, attempt=attempt, hang_timeout_seconds=60, world=World()
                ),
                chosen=CHOSEN,
                gang=Gang(0, 0, 1, torch.device("cpu")),
                store=open_store(StoreAccess(endpoint=s3_proxy.endpoint), "output", paths),
                heartbeat=Progress(),
                prepared=SimpleNamespace(train=range(101)),
                data_digest=DATA,
                base_digest=BASE,
                dtypes=FLOAT32,
            )
        )

    yield of
    dist.destroy_process_group()


def best_at(checkpointer: Checkpointer, step: int) -> LoopState:
    best = BestWeights(score=Best(step=step, metric=0.5), checkpoint=checkpointer.name_of(step))
    return STATE.model_copy(update={"best": best})


def steps_of(store: Store, checkpointer: Checkpointer) -> list[int]:
    return sorted(int(name[:8]) for name in list_checkpoints(store, checkpointer.root).complete)


@pytest.mark.usefixtures("hasty")
def test_training_goes_on_when_a_checkpoint_is_not_saved_and_the_next_one_is(
    make: Make, store: Store, s3_proxy: StoreProxy
) -> None:
    checkpointer = make()
    progress = checkpointer.context.heartbeat.fields  # type: ignore[attr-defined]
    checkpointer.save(ENGINE, STATE, 10)
    s3_proxy.suffer("error", "put", "begin upload", below="00000020")
    checkpointer.save(ENGINE, STATE, 20)
    checkpointer.save(ENGINE, STATE, 30)
    checkpointer.finish()
    assert steps_of(store, checkpointer) == [10, 30]
    assert progress["checkpoint_step"] == progress["checkpoint"].step == 30
    assert progress["checkpoint_pause_seconds"] > 0
    s3_proxy.suffer("error", "put", "begin upload")
    with pytest.raises(StageFailure, match="StorageError"):
        checkpointer.save_now(ENGINE, STATE, 40)


@pytest.mark.usefixtures("hasty")
def test_training_ends_if_the_best_weights_cannot_be_saved_unless_better_weights_follow(
    make: Make, store: Store, s3_proxy: StoreProxy
) -> None:
    checkpointer = make()
    s3_proxy.suffer("error", "put", "begin upload", below="00000010")
    checkpointer.save(ENGINE, best_at(checkpointer, 10), 10)
    checkpointer.save(ENGINE, best_at(checkpointer, 20), 20)
    checkpointer.finish()
    assert steps_of(store, checkpointer) == [20]
    s3_proxy.suffer("error", "put", "begin upload", below="00000030")
    state = best_at(checkpointer, 30)
    checkpointer.save(ENGINE, state, 30)
    with pytest.raises(StageFailure, match="StorageError"):
        checkpointer.save(ENGINE, state, 40)
    with pytest.raises(StageFailure, match="StorageError"):
        checkpointer.finish()


def test_best_weights_that_are_lost_with_the_upload_of_another_rank_are_a_failure_of_the_store(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = make()
    silent = StageFailure(FailureClass.COMMUNICATION, "PeerLost", "rank 1 sent no heartbeat")
    monkeypatch.setattr(checkpointer._saver, "_upload", Mock(side_effect=silent))
    checkpointer.save(ENGINE, best_at(checkpointer, 10), 10)
    with pytest.raises(StageFailure, match=r"StorageFailed.*rank 1 sent no heartbeat") as caught:
        checkpointer.finish()
    assert caught.value.failure is FailureClass.STORAGE


def test_an_upload_may_be_silent_for_one_request_with_its_retries(make: Make) -> None:
    checkpointer = make()
    assert checkpointer.context.config.hang_timeout_seconds < UPLOAD_SILENCE_SECONDS
    assert checkpointer._saver._silence_seconds == UPLOAD_SILENCE_SECONDS


def test_a_resumed_attempt_deletes_the_checkpoint_that_it_could_not_read(
    make: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(Checkpoints(keep=9))
    for step in (10, 20, 30):
        first.save(ENGINE, STATE, step)
    first.finish()
    second = make(Checkpoints(keep=2), attempt=2)

    def restore_from(checkpoint: Checkpoint, _: object) -> LoopState | None:
        return None if checkpoint.manifest.step == 30 else STATE

    monkeypatch.setattr(second, "_restore_from", restore_from)
    assert second.restore(ENGINE) == (20, STATE)
    second.save(ENGINE, STATE, 25)
    until(lambda: steps_of(store, second) == [20, 25])
    second.finish()


def test_the_best_weights_stay_without_checkpoints_in_the_config(make: Make, store: Store) -> None:
    checkpointer = make(None)
    assert not checkpointer.resumable
    for step in (10, 20):
        checkpointer.save(ENGINE, best_at(checkpointer, step), step)
    until(lambda: steps_of(store, checkpointer) == [20])
    checkpointer.finish()
    assert not checkpointer.is_due()
    assert checkpointer.restore(ENGINE) is None


def test_the_wait_for_an_upload_is_part_of_the_pause_and_does_not_change_the_interval(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: now))
    checkpointer = make(Checkpoints())
    heartbeat: Any = checkpointer.context.heartbeat
    gate = gated(checkpointer.context.store, monkeypatch)
    parts = checkpointing.engine_state.owned_parts

    def beat(activity: Activity, **fields: Any) -> None:
        nonlocal now
        if activity is Activity.SAVING and not gate.is_set():
            now += 500
            gate.set()
        heartbeat.fields |= fields

    def copy(*arguments: Any) -> list[Part]:
        nonlocal now
        now += 1
        return parts(*arguments)

    monkeypatch.setattr(heartbeat, "beat", beat)
    monkeypatch.setattr(checkpointing.engine_state, "owned_parts", copy)
    checkpointer.save(ENGINE, STATE, 10)
    checkpointer.save(ENGINE, STATE, 20)
    checkpointer.finish()
    assert heartbeat.fields["checkpoint_pause_seconds"] == 501
    # sqrt(2 * 1 s * 86400 s) = 415.7 s
    now += 415
    assert not checkpointer.is_due()
    now += 1
    assert checkpointer.is_due()


def test_a_checkpoint_is_due_after_the_interval_and_not_during_an_upload(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: now))
    checkpointer = make()
    assert not checkpointer.is_due(), "the interval begins with the first step"
    now = 1059.0
    assert not checkpointer.is_due()
    now = 1060.0
    assert checkpointer.is_due()
    gate = gated(checkpointer.context.store, monkeypatch)
    checkpointer.save(ENGINE, STATE, 10)
    now = 1200.0
    assert not checkpointer.is_due()
    gate.set()
    checkpointer.finish()
    assert checkpointer.is_due()
