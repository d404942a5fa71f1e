"""Stages advance a job: what each creates, and what its result adds to the status. Pure."""

from finetune_operator.api import FineTuneJobStatus
from finetune_operator.stages import prepare, publish, train
from finetune_trainer.contract import Payload, PreparePayload, PublishPayload, TrainPayload


def accepted(status: FineTuneJobStatus, payload: Payload) -> FineTuneJobStatus:
    """The status with a stage's result in it."""
    match payload:
        case PreparePayload():
            return prepare.accepted(status, payload)
        case TrainPayload():
            return train.accepted(status, payload)
        case PublishPayload():
            return publish.accepted(status, payload)
        case _:
            return status
