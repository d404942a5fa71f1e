"""The termination message: composed from the verdict, left where the kubelet looks."""

import json
import logging
from collections.abc import Mapping

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import ExitCode, FailureClass, RankFile, Stage, TerminationMessage
from finetune_trainer.paths import Paths
from finetune_trainer.pod.classify import Verdict

UNKNOWN_DIGEST = "sha256:" + "0" * 64
"""Stands for the digest of a config that cannot be read."""

log = logging.getLogger(__name__)


def compose(config: TrainConfig, verdict: Verdict, files: Mapping[int, RankFile]) -> TerminationMessage:
    """The pod's last word: its own cause; where rank 0 lives, also the result."""
    told = files.get(verdict.rank) if verdict.rank is not None else None
    result = files.get(0) if verdict.failure is FailureClass.SUCCESS else None
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
        payload=result.payload if result else None,
        result=result.result if result else None,
    )


def _place(told: RankFile | None, verdict: Verdict) -> str | None:
    """The line at which the rank of the cause failed; its activity where it left no error."""
    if told is None or verdict.failure is FailureClass.SUCCESS:
        return None
    return told.place or told.activity.value


def without_config(paths: Paths, verdict: Verdict) -> TerminationMessage:
    """A message although the config cannot be used; says which stage it is if that much can be read."""
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


def say(paths: Paths, message: TerminationMessage) -> int:
    """Leaves the message where the kubelet looks; one write, because the mounted file cannot be replaced."""
    log.info("%s (%s): %s", message.failure, message.reason, message.message)
    try:
        paths.termination_log.parent.mkdir(parents=True, exist_ok=True)
        paths.termination_log.write_bytes(message.encode())
    except OSError:
        log.exception("the termination message could not be written")
    return ExitCode.of(message.failure)
