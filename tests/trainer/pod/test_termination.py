from dataclasses import replace

import pytest

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import CheckpointRef, FailureClass, InPlaceRestarts, RankFile
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


def test_the_message_has_the_latest_step_and_checkpoint_of_all_rounds() -> None:
    restarts = InPlaceRestarts(count=1, failure=FailureClass.HANG, reason="RankSilent", lost_steps=5)
    first = RankFile(pid=1, heartbeat=1, quiet_seconds=60, checkpoint=REF, step=45)
    before = replace(NOTHING.after({0: first}), restarts=restarts)
    verdict = Verdict(FailureClass.INTERNAL, "RankKilled", "killed", rank=0)
    loading = RankFile(pid=2, heartbeat=1, quiet_seconds=60)
    message = compose(TRAIN, verdict, {0: loading}, earlier=before)
    assert (message.step, message.checkpoint, message.in_place_restarts) == (45, REF, restarts)
    newer = REF.model_copy(update={"step": 60})
    training = first.model_copy(update={"step": 61, "checkpoint": newer})
    message = compose(TRAIN, verdict, {0: training}, earlier=before)
    assert (message.step, message.checkpoint) == (61, newer)
