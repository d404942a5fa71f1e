"""Composes the termination message from the verdict, and writes the message for the kubelet."""

import json
import logging
from collections.abc import Mapping

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import ExitCode, FailureClass, RankFile, Stage, TerminationMessage
from finetune_trainer.paths import Paths
from finetune_trainer.pod.classify import Verdict

UNKNOWN_DIGEST = "sha256:" + "0" * 64
"""The config digest in the termination message if the config cannot be read."""

log = logging.getLogger(__name__)


def compose(
    config: TrainConfig, verdict: Verdict, files: Mapping[int, RankFile], peak_memory: int | None = None
) -> TerminationMessage:
    """Composes the termination message of this pod.

    Args:
        config: the configuration of the trainer.
        verdict: the cause of the end.
        files: rank files of this pod by global rank. After success, rank 0 provides payload and result.
        peak_memory: greatest memory of the pod in bytes; None if unknown.
    """
    told = files.get(verdict.rank) if verdict.rank is not None else None
    first = files.get(0)
    result = first if verdict.failure is FailureClass.SUCCESS else None
    # Every rank knows the checkpoints of the gang.
    saved = [file.checkpoint for file in files.values() if file.checkpoint]
    resumed = [file.resumed_from_step for file in files.values() if file.resumed_from_step is not None]
    return TerminationMessage(
        stage=config.stage,
        attempt=config.attempt,
        config_digest=config.run.digest(),
        failure=verdict.failure,
        reason=verdict.reason,
        message=verdict.message[:1024],
        hint=verdict.hint[:512],
        place=_place(told, verdict),
        step=told.step if told else None,
        epoch=told.epoch if told else None,
        peak_memory_bytes=peak_memory,
        checkpoint=max(saved, key=lambda checkpoint: checkpoint.step, default=None),
        resumed_from_step=max(resumed, default=None),
        seconds=first.seconds if first else None,
        payload=result.payload if result else None,
        result=result.result if result else None,
    )


def _place(told: RankFile | None, verdict: Verdict) -> str | None:
    """The line at which a rank failed, or the activity of a rank without an error; None after success."""
    if told is None or verdict.failure is FailureClass.SUCCESS:
        return None
    return told.place or told.activity.value


def without_config(paths: Paths, verdict: Verdict) -> TerminationMessage:
    """Composes the termination message of a pod whose config cannot be used.

    Args:
        paths: the folders of the pod.
        verdict: the cause of the end.

    Returns:
        The message, with stage and attempt of the config file if they can be read, else Prepare and 1.
    """
    try:
        document = json.loads(paths.config.read_bytes())
        stage, attempt = Stage(document["stage"]), max(1, int(document["attempt"]))
    except (OSError, ValueError, LookupError, TypeError):
        stage, attempt = Stage.PREPARE, 1
    return TerminationMessage(
        stage=stage,
        attempt=attempt,
        config_digest=UNKNOWN_DIGEST,
        failure=verdict.failure,
        reason=verdict.reason,
        message=verdict.message[:1024],
        hint=verdict.hint[:512],
    )


def write_message(paths: Paths, message: TerminationMessage) -> int:
    """Writes the termination message for the kubelet.

    The message is written in one write, because the kubelet mounts the file and a mount cannot be replaced.

    Args:
        paths: the folders of the pod.
        message: the message.

    Returns:
        The exit code of the failure class.
    """
    log.info("%s (%s): %s", message.failure, message.reason, message.message)
    try:
        paths.termination_log.parent.mkdir(parents=True, exist_ok=True)
        paths.termination_log.write_bytes(message.encode())
    except OSError:
        log.exception("cannot write the termination message")
    return ExitCode.of(message.failure)
