"""Writes the result of each stage into the status, and summarizes the result in a sentence. Pure."""

from finetune_operator.api import DataStatus, FineTuneJobStatus, ModelStatus, TrainStatus
from finetune_operator.planning.wording import count
from finetune_trainer.contract import PreparePayload, PublishPayload, TrainPayload, describe


def accept_prepare(status: FineTuneJobStatus, payload: PreparePayload) -> FineTuneJobStatus:
    """The status with the result of Prepare, and without the results of an earlier spec."""
    data = DataStatus(
        digest=payload.data_digest,
        prepared=payload.prepared,
        rows=payload.rows,
        account=payload.account,
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
            "memory": payload.memory,
            "model": ModelStatus(base_digest=payload.model_digest, parameters=payload.parameters),
            "training": None,
            "evaluation": None,
            "report": None,
            "progress": None,
        }
    )


def accept_train(status: FineTuneJobStatus, payload: TrainPayload) -> FineTuneJobStatus:
    """The status with the result of Train."""
    training = TrainStatus(
        best_step=payload.best.step,
        best_validation=payload.best.metric,
        staging=payload.staging,
        peak_memory_bytes=payload.peak_memory_bytes,
        gpu_seconds=payload.gpu_seconds,
    )
    return status.model_copy(
        update={"training": training, "evaluation": payload.evaluation, "progress": None}
    )


def accept_publish(status: FineTuneJobStatus, payload: PublishPayload) -> FineTuneJobStatus:
    """The status with the result of Publish."""
    published = {"uri": payload.uri, "digest": payload.digest, "size_bytes": payload.size_bytes}
    model = (status.model or ModelStatus()).model_copy(update=published)
    return status.model_copy(update={"model": model, "report": payload.report, "progress": None})


def summarize_data(status: FineTuneJobStatus) -> str:
    """Describes the prepared data in a sentence."""
    if status.data is None or status.chosen is None:
        return "The data is prepared."
    rows, account = status.data.rows, status.data.account
    classes = f", {count(status.data.labels, 'class', 'classes')}" if status.data.labels else ""
    steps = f"{count(status.chosen.total_steps, 'step')} of {count(status.chosen.batch_size, 'row')}"
    left_out = ""
    if account and account.left_out:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(account.left_out.items()))
        total = sum(account.left_out.values())
        left_out = f"; {total:,} of {count(account.read, 'row')} left out ({reasons})"
    return (
        f"{count(rows.train, 'training row')}, {count(rows.validation, 'validation row')},"
        f" {count(rows.test, 'test row')}{classes}{left_out}; {steps}."
    )


def summarize_scores(status: FineTuneJobStatus) -> str:
    """Describes the scores of the tuned model in a sentence."""
    measured = status.evaluation
    if measured is None or measured.tuned is None:
        return "The model is trained."
    return describe(measured)


def summarize_model(status: FineTuneJobStatus) -> str:
    """Describes the published model in a sentence."""
    return f"The model is published at {status.model.uri if status.model else 'its output'}."
