"""Composes the termination message from the verdict, and writes the message for the kubelet."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import (
    CheckpointRef,
    ExitCode,
    FailureClass,
    InPlaceRestarts,
    RankFile,
    SecondsByUse,
    Stage,
    TerminationMessage,
)
from finetune_trainer.paths import Paths
from finetune_trainer.pod.classify import Verdict

UNKNOWN_DIGEST = "sha256:" + "0" * 64
"""The config digest in the termination message if the config cannot be read."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reached:
    """What the ranks of a pod reached in an attempt, over all restarts in place."""

    step: int | None = None
    """Latest optimizer step."""
    checkpoint: CheckpointRef | None = None
    """Newest complete checkpoint."""
    restarts: InPlaceRestarts | None = None
    """The restarts in place so far."""
    seconds: SecondsByUse | None = None
    """Time of rank 0 by use; None where the pod has no rank 0."""

    def after(self, files: Mapping[int, RankFile]) -> "Reached":
        """Returns what the ranks reached after a further round.

        Args:
            files: rank files of the round. Every rank knows the checkpoints of the gang.
        """
        steps = [file.step for file in files.values()]
        saved = [file.checkpoint for file in files.values() if file.checkpoint]
        saved += [self.checkpoint] if self.checkpoint else []
        newest = max(saved, key=lambda checkpoint: checkpoint.step, default=None)
        first = files.get(0)
        spent = total_seconds(self.seconds, first.seconds if first else None)
        return Reached(_latest(self.step, *steps), newest, self.restarts, spent)


NOTHING = Reached()


def compose(
    config: TrainConfig,
    verdict: Verdict,
    files: Mapping[int, RankFile],
    peak_memory: int | None = None,
    earlier: Reached = NOTHING,
) -> TerminationMessage:
    """Composes the termination message of this pod.

    Args:
        config: the configuration of the trainer.
        verdict: the cause of the end.
        files: rank files of this pod by global rank. After success, rank 0 provides payload and result.
        peak_memory: greatest memory of the pod in bytes; None if unknown.
        earlier: what the pod reached before the last restart in place.
    """
    told = files.get(verdict.rank) if verdict.rank is not None else None
    first = files.get(0)
    result = first if verdict.failure is FailureClass.SUCCESS else None
    reached = earlier.after(files)
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
        step=_latest(told.step if told else None, earlier.step),
        epoch=told.epoch if told else None,
        peak_memory_bytes=peak_memory,
        checkpoint=reached.checkpoint,
        resumed_from_step=max(resumed, default=None),
        seconds=reached.seconds,
        in_place_restarts=reached.restarts,
        payload=result.payload if result else None,
        result=result.result if result else None,
    )


def total_seconds(earlier: SecondsByUse | None, current: SecondsByUse | None) -> SecondsByUse | None:
    """The time of earlier rounds and of the current round by use; None where both are unknown."""
    return earlier + current if earlier and current else earlier or current


def _latest(*steps: int | None) -> int | None:
    """The latest of the known steps."""
    return max((step for step in steps if step is not None), default=None)


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
