import pytest

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import CheckpointRef, FailureClass, RankFile, SecondsByUse
from finetune_trainer.pod.classify import Verdict
from finetune_trainer.pod.termination import compose
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
