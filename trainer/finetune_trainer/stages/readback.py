"""The stage Readback: reads the stored result of a stage whose termination message was lost."""

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Activity, FailureClass, Stage
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import results
from finetune_trainer.s3.store import open_store
from finetune_trainer.stages.result import StageResult


def run(config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Returns the stored result of `config.readback_stage`.

    Raises:
        StageFailure: ResultMissing, if no result of this stage and configuration is stored.
    """
    heartbeat.beat(Activity.CHECKING_STORE)
    if config.readback_stage is None:
        raise StageFailure(
            FailureClass.INTERNAL, "ReadbackStageMissing", "The config names no readbackStage.", ""
        )
    stage = Stage(config.readback_stage)
    store = open_store(config.run.stores.output, "output", paths)
    message = results.find(store, config, stage)
    if message is None:
        raise StageFailure(
            FailureClass.STORAGE,
            "ResultMissing",
            f"No result of {stage} with this config lies below {config.run.runs}attempts/.",
            "The stage has to run again.",
        )
    return StageResult(message.payload, message.message, message.step, message.epoch)
