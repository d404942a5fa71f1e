"""Prepare: checks store, model and data, splits, tokenises, and decides what is `Auto`. Pure."""

from finetune_operator.api import DataStatus, FineTuneJobStatus, ModelStatus
from finetune_operator.observed import Manifest
from finetune_operator.resources import stage_job
from finetune_operator.turn import Ground, Turn
from finetune_trainer.contract import PreparePayload, Stage


def job(turn: Turn, ground: Ground, number: int) -> Manifest:
    """The Job of one attempt."""
    return stage_job(turn.job, ground.run, turn.settings, ground.profile, Stage.PREPARE, number)


def accepted(status: FineTuneJobStatus, payload: PreparePayload) -> FineTuneJobStatus:
    """The status with Prepare's result; results of an earlier spec are gone with it."""
    data = DataStatus(
        digest=payload.data_digest,
        prepared=payload.prepared,
        rows=payload.rows,
        labels=payload.labels,
        tokens=payload.tokens,
        truncated_tokens=payload.truncated_tokens,
        findings=payload.findings,
        report=payload.report,
    )
    return status.model_copy(
        update={
            "data": data,
            "chosen": payload.chosen,
            "model": ModelStatus(base_digest=payload.model_digest, parameters=payload.parameters),
            "training": None,
            "evaluation": None,
            "report": None,
            "progress": None,
        }
    )


def told(status: FineTuneJobStatus) -> str:
    """Prepare's result in a sentence."""
    if status.data is None or status.chosen is None:
        return "The data is prepared."
    rows = status.data.rows
    return (
        f"{rows.train:,} rows to train on, {rows.validation:,} to choose on, {rows.test:,} to measure on,"
        f" {status.data.labels} classes; {status.chosen.total_steps:,} steps of {status.chosen.batch_size}"
        " rows."
    )
