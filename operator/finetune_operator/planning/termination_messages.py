"""Reads the termination messages of pods, as data that a tenant controls. Pure.

A message is decoded, checked against the attempt and its run, stripped of control characters and bounded.
"""

import json
import unicodedata
from dataclasses import dataclass

from finetune_operator.objects import Manifest, terminated
from finetune_trainer import config as trainer
from finetune_trainer.contract import (
    ContractError,
    FailureClass,
    Payload,
    PreparePayload,
    PublishPayload,
    Stage,
    TerminationMessage,
    TrainPayload,
    speaks,
)

NO_DIGEST = "sha256:" + "0" * 64
"""The config digest in the message of a trainer that cannot read its config."""


@dataclass(frozen=True)
class Expected:
    """The attempt that the message of a pod must be about."""

    stage: Stage
    attempt: int
    digest: str
    run: trainer.Run | None
    """The run of the attempt; None where the run is no longer known."""
    readback: bool = False
    """Whether a readback Job sends the message, whose stage is then Readback or the stage that was read."""


class Unreadable(ValueError):  # noqa: N818 - the name describes the message
    """The message of a pod is missing, cannot be decoded, or is about another attempt."""


class OtherVersion(Unreadable):
    """The message is of another major contract version."""


def message_of(pod: Manifest, expected: Expected) -> TerminationMessage:
    """Reads the message of a pod, which must be about the expected attempt.

    Raises:
        Unreadable: the message is missing, cannot be decoded, or is about another attempt.
        OtherVersion: the message is of another major contract version.
    """
    text = (terminated(pod) or {}).get("message")
    if not text:
        raise Unreadable("it left no message")
    if (version := _version(text)) and not speaks(version):
        raise OtherVersion(f"it speaks contract version {clean(version, 20)}")
    try:
        message = TerminationMessage.decode(text)
    except ContractError as error:
        raise Unreadable(f"its message cannot be read ({clean(str(error), 200)})") from None
    unread = message.config_digest == NO_DIGEST and message.failure is not FailureClass.SUCCESS
    stage = expected.stage if expected.readback and message.stage is Stage.READBACK else message.stage
    for what, actual, wanted in (
        ("stage", stage.value, expected.stage.value),
        ("attempt", str(message.attempt), str(expected.attempt)),
        ("config digest", expected.digest if unread else message.config_digest, expected.digest),
    ):
        if actual != wanted:
            raise Unreadable(f"its message is of {what} {actual}, not {wanted}")
    return message


def doubt_about(payload: Payload, expected: Expected) -> str | None:
    """Why a payload cannot be the result of the expected attempt; None where the payload is plausible."""
    if payload.kind != expected.stage.value:
        return f"a {payload.kind} result from stage {expected.stage.value}"
    if expected.run is None:
        return None
    match payload:
        case PreparePayload():
            folders = {payload.prepared: expected.run.runs, payload.report: expected.run.runs}
            if payload.chosen.world_size != expected.run.world.size:
                actual, wanted = payload.chosen.world_size, expected.run.world.size
                return f"it chose for {actual} processes where {wanted} are asked for"
        case TrainPayload():
            folders = {payload.staging: expected.run.runs}
        case PublishPayload():
            folders = {payload.uri.rstrip("/") + "/": expected.run.output, payload.report: "s3://"}
        case _:
            return f"a {payload.kind} result"
    for uri, folder in folders.items():
        if not uri.startswith(folder) or uri != clean(uri, 2048):
            return f"{clean(uri, 200)} is no place below {folder}"
    return None


def clean(text: str, limit: int) -> str:
    """Text of a tenant in one line, without control and formatting characters, cut to `limit` characters."""
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    short = " ".join(plain.split())
    return short if len(short) <= limit else short[: limit - 3] + "..."


def _version(text: str) -> str | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    version = document.get("contractVersion") if isinstance(document, dict) else None
    return version if isinstance(version, str) else None
