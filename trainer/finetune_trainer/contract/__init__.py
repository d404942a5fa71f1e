"""The contract between operator and trainer: version 1, documented in docs/contract.md.

Both sides import this package. It imports no torch.
"""

from finetune_trainer.contract.base import (
    CONTRACT_VERSION,
    ContractError,
    Digest,
    Hint,
    Message,
    Model,
    Reason,
    Uri,
    acts_on_terminals,
    printable,
    speaks,
)
from finetune_trainer.contract.evaluation import Evaluation, Interval, Scores
from finetune_trainer.contract.messages import MAX_MESSAGE_BYTES, CheckpointRef, ResultRef, TerminationMessage
from finetune_trainer.contract.outcomes import ExitCode, FailureClass, Stage
from finetune_trainer.contract.payloads import (
    Best,
    Chosen,
    CleanupPayload,
    Findings,
    Payload,
    PreparePayload,
    PublishPayload,
    RowCounts,
    TrainPayload,
)
from finetune_trainer.contract.progress import (
    MAX_PROGRESS_BYTES,
    PROGRESS_PORT,
    RENDEZVOUS_PORT,
    Activity,
    Progress,
    RankFile,
)
from finetune_trainer.contract.tasks import (
    HIGHER_IS_BETTER,
    METRIC_TABLE,
    METRICS,
    PRIMARY_METRIC,
    TASKS,
    TITLES,
    Metric,
    MetricName,
    Task,
)

__all__ = [
    "CONTRACT_VERSION",
    "HIGHER_IS_BETTER",
    "MAX_MESSAGE_BYTES",
    "MAX_PROGRESS_BYTES",
    "METRICS",
    "METRIC_TABLE",
    "PRIMARY_METRIC",
    "PROGRESS_PORT",
    "RENDEZVOUS_PORT",
    "TASKS",
    "TITLES",
    "Activity",
    "Best",
    "CheckpointRef",
    "Chosen",
    "CleanupPayload",
    "ContractError",
    "Digest",
    "Evaluation",
    "ExitCode",
    "FailureClass",
    "Findings",
    "Hint",
    "Interval",
    "Message",
    "Metric",
    "MetricName",
    "Model",
    "Payload",
    "PreparePayload",
    "Progress",
    "PublishPayload",
    "RankFile",
    "Reason",
    "ResultRef",
    "RowCounts",
    "Scores",
    "Stage",
    "Task",
    "TerminationMessage",
    "TrainPayload",
    "Uri",
    "acts_on_terminals",
    "printable",
    "speaks",
]
