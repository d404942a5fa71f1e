"""The FineTuneJob, version v1alpha1: the spec (spec.py) and the status (status.py).

`kubectl explain` shows the text under each field. The API server checks the bounds and the CEL rules; Prepare
checks the values that depend on the data or the model.
"""

from typing import Annotated, Any

from pydantic import Field

from finetune_operator.api.changes import frozen_rule
from finetune_operator.api.fields import rule, rules
from finetune_operator.api.gate import GateSpec
from finetune_operator.api.method import LoraSpec
from finetune_operator.api.spec import (
    DEFAULT_REGION,
    CaBundleRef,
    Columns,
    FailurePolicySpec,
    FineTuneJobSpec,
    NotificationSpec,
    Region,
    SecretRef,
    Storage,
)
from finetune_operator.api.status import (
    UNOBSERVED,
    AttemptStatus,
    ConditionStatus,
    DataStatus,
    DroppedAttempts,
    FineTuneJobStatus,
    GpuSeconds,
    ModelStatus,
    NotificationStatus,
    ProgressStatus,
    SlowRank,
    TrainStatus,
)
from finetune_trainer.contract import Model

__all__ = [
    "DEFAULT_REGION",
    "AttemptStatus",
    "CaBundleRef",
    "Columns",
    "ConditionStatus",
    "DataStatus",
    "DroppedAttempts",
    "FailurePolicySpec",
    "FineTuneJob",
    "FineTuneJobSpec",
    "FineTuneJobStatus",
    "GateSpec",
    "GpuSeconds",
    "LoraSpec",
    "ModelStatus",
    "NotificationSpec",
    "NotificationStatus",
    "ProgressStatus",
    "Region",
    "SecretRef",
    "SlowRank",
    "Storage",
    "TrainStatus",
]


class FineTuneJob(Model):
    """Fine-tunes a base model on your data, compares both models, and publishes the tuned model to S3."""

    model_config = rules(
        frozen_rule(FineTuneJobSpec),
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
    """Specification of the job. Training starts when the first Train pod runs (status.trainingStartTime)."""
    status: Annotated[
        FineTuneJobStatus | None, Field(json_schema_extra={"default": {"observedGeneration": UNOBSERVED}})
    ] = None
    """Status of the job, as the operator last observed the job."""
