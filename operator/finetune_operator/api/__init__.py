"""FineTuneJob, version v1alpha1: what a person writes (spec.py) and what they read back (status.py).

The text under a field is what `kubectl explain` shows. Bounds and CEL rules are checked by the API server;
what only the data or the model can tell is checked by Prepare.
"""

from typing import Any

from finetune_operator.api.fields import rule, rules
from finetune_operator.api.gate import GateSpec
from finetune_operator.api.method import LoraSpec
from finetune_operator.api.spec import FineTuneJobSpec, Storage
from finetune_operator.api.status import (
    AttemptStatus,
    ConditionStatus,
    DataStatus,
    DroppedAttempts,
    FineTuneJobStatus,
    ModelStatus,
    ProgressStatus,
    TrainStatus,
)
from finetune_trainer.contract import Model

__all__ = [
    "AttemptStatus",
    "ConditionStatus",
    "DataStatus",
    "DroppedAttempts",
    "FineTuneJob",
    "FineTuneJobSpec",
    "FineTuneJobStatus",
    "GateSpec",
    "LoraSpec",
    "ModelStatus",
    "ProgressStatus",
    "Storage",
    "TrainStatus",
]


class FineTuneJob(Model):
    """Fine-tunes a model on data of your own, measures it against its base, and publishes it to S3."""

    model_config = rules(
        rule(
            "!has(oldSelf.status) || !has(oldSelf.status.attempts)"
            " || !oldSelf.status.attempts.exists(a, a.stage == 'Train')"
            " || (self.spec.task == oldSelf.spec.task && self.spec.model == oldSelf.spec.model"
            " && self.spec.dataset == oldSelf.spec.dataset && self.spec.method == oldSelf.spec.method"
            " && self.spec.training == oldSelf.spec.training"
            " && self.spec.deepspeed == oldSelf.spec.deepspeed"
            " && self.spec.resources == oldSelf.spec.resources"
            " && self.spec.evaluation == oldSelf.spec.evaluation"
            " && self.spec.output == oldSelf.spec.output"
            " && has(self.spec.storage) == has(oldSelf.spec.storage)"
            " && (!has(self.spec.storage) || self.spec.storage == oldSelf.spec.storage))",
            "training has started: only spec.suspend and spec.ttl may be changed; for anything else apply a"
            " job of another name",
            ".spec",
        ),
        rule(
            "!has(self.spec.model.fromJob) || self.spec.model.fromJob.name != self.metadata.name",
            "spec.model.fromJob names the job itself: name the one whose model to start from",
            ".spec.model.fromJob.name",
        ),
    )

    api_version: str
    kind: str
    metadata: dict[str, Any]
    spec: FineTuneJobSpec
    """What is asked for."""
    status: FineTuneJobStatus | None = None
    """What is, as the operator last saw it."""
