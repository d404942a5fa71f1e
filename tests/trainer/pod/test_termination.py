from dataclasses import replace
from pathlib import Path

import pytest

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import (
    CheckpointRef,
    FailureClass,
    InPlaceRestarts,
    Progress,
    RankFile,
    SecondsByUse,
    Stage,
)
from finetune_trainer.paths import Paths
from finetune_trainer.pod import supervisor
from finetune_trainer.pod.classify import Verdict
from finetune_trainer.pod.termination import NOTHING, compose
from tests.trainer.test_config import CONFIG

TRAIN = TrainConfig.model_validate({**CONFIG, "stage": "Train"})
REF = CheckpointRef(step=40, digest="sha256:" + "1" * 64)


@pytest.mark.parametrize("rank", [0, 1, None])
def test_the_message_has_the_newest_checkpoint_that_a_rank_of_the_pod_knows(rank: int | None) -> None:
    earlier = CheckpointRef(step=REF.step - 1, digest=REF.digest)
    files = {
        2: RankFile(pid=1, heartbeat=1, quiet_seconds=60, checkpoint=earlier, resumed_from_step=30, step=41),
        3: RankFile(pid=2, heartbeat=1, quiet_seconds=60, checkpoint=REF, resumed_from_step=30, step=41),
    }
    verdict = Verdict(FailureClass.PREEMPTED, "Preempted", "ended", rank=rank)
    message = compose(TRAIN, verdict, files)
    assert (message.checkpoint, message.resumed_from_step) == (REF, 30)
    message = compose(TRAIN, verdict, {3: RankFile(pid=2, heartbeat=1, quiet_seconds=60, step=41)})
    assert (message.checkpoint, message.resumed_from_step) == (None, None)


def test_the_message_of_the_pod_with_rank_0_has_the_time_of_rank_0_by_use() -> None:
    spent = SecondsByUse(startup=20, training=300)
    files = {
        0: RankFile(pid=1, heartbeat=1, quiet_seconds=60, seconds=spent),
        1: RankFile(pid=2, heartbeat=1, quiet_seconds=60, seconds=SecondsByUse(startup=21)),
    }
    verdict = Verdict(FailureClass.HANG, "RankSilent", "ended", rank=1)
    assert compose(TRAIN, verdict, files).seconds == spent
    assert compose(TRAIN, verdict, {1: files[1]}).seconds is None


def test_the_message_has_the_latest_step_and_checkpoint_of_all_rounds() -> None:
    restarts = InPlaceRestarts(count=1, failure=FailureClass.HANG, reason="RankSilent", lost_steps=5)
    spent = SecondsByUse(startup=20, training=300)
    first = RankFile(pid=1, heartbeat=1, quiet_seconds=60, checkpoint=REF, step=45, seconds=spent)
    before = replace(NOTHING.after({0: first}), restarts=restarts)
    verdict = Verdict(FailureClass.INTERNAL, "RankKilled", "killed", rank=0)
    loading = RankFile(pid=2, heartbeat=1, quiet_seconds=60)
    message = compose(TRAIN, verdict, {0: loading}, earlier=before)
    assert (message.step, message.checkpoint, message.in_place_restarts) == (45, REF, restarts)
    assert message.seconds == spent
    newer = REF.model_copy(update={"step": 60})
    training = first.model_copy(update={"step": 61, "checkpoint": newer})
    message = compose(TRAIN, verdict, {0: training}, earlier=before)
    assert (message.step, message.checkpoint) == (61, newer)
    assert message.seconds == SecondsByUse(startup=40, training=600)


def test_the_progress_after_a_restart_in_place_has_the_time_and_the_checkpoint_of_earlier_rounds(
    tmp_path: Path,
) -> None:
    paths = Paths(tmp_path)
    paths.progress.parent.mkdir(parents=True)
    shown = supervisor._Shown(Progress(stage=Stage.TRAIN, attempt=1))
    assert shown.read(paths).seconds is None
    spent = SecondsByUse(startup=20, training=300)
    first = Progress(stage=Stage.TRAIN, attempt=1, checkpoint_step=40, checkpoint_time=7, seconds=spent)
    paths.progress.write_text(first.model_dump_json(by_alias=True))
    assert shown.read(paths) == first
    shown.keep(paths)
    paths.progress.unlink()
    assert shown.read(paths) == first
    second = Progress(stage=Stage.TRAIN, attempt=1, seconds=SecondsByUse(startup=8), step=41)
    paths.progress.write_text(second.model_dump_json(by_alias=True))
    found = shown.read(paths)
    assert (found.step, found.checkpoint_step) == (41, 40)
    assert found.seconds == SecondsByUse(startup=28, training=300)
