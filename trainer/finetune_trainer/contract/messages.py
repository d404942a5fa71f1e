"""The termination message of a trainer pod."""

import json
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from finetune_trainer.contract.base import (
    CONTRACT_VERSION,
    ContractError,
    Digest,
    Hint,
    Message,
    Model,
    Place,
    Reason,
    Uri,
    speaks,
)
from finetune_trainer.contract.outcomes import FailureClass, Stage
from finetune_trainer.contract.payloads import Payload

MAX_MESSAGE_BYTES = 4096
"""Limit of the kubelet for a termination message."""
MAX_IN_PLACE_RESTARTS = 20
"""Limit of the number of restarts in place of an attempt."""
MAX_LOST_STEPS = 2**53
"""Largest integer that every JSON parser keeps exact."""


class CheckpointRef(Model):
    """A reference to a checkpoint in S3."""

    step: NonNegativeInt
    digest: Digest


class ResultRef(Model):
    """A reference to the complete result of a stage in S3."""

    uri: Uri
    digest: Digest


class SecondsByUse(Model):
    """The time of a rank in Train by use, in whole seconds. Other time, such as waiting, has no use."""

    startup: NonNegativeInt = 0
    """From the start of the rank until its first step, without the rendezvous and evaluations."""
    training: NonNegativeInt = 0
    """Optimizer steps."""
    evaluation: NonNegativeInt = 0
    """Evaluations of the base model, of the validation rows and of the tuned model."""
    checkpoint: NonNegativeInt = 0
    """Pauses of training for checkpoints, and saving the tuned model."""

    def __add__(self, other: "SecondsByUse") -> "SecondsByUse":
        """The time of two rounds of an attempt."""
        return SecondsByUse(
            **{name: getattr(self, name) + getattr(other, name) for name in SecondsByUse.model_fields}
        )


class InPlaceRestarts(Model):
    """The restarts in place of an attempt: the ranks of all pods ended and started again in the same pods."""

    count: Annotated[int, Field(ge=1, le=MAX_IN_PLACE_RESTARTS)]
    """Number of restarts in place, from 1 to 20."""
    failure: Annotated[FailureClass, Field(alias="class")]
    """Class of the failure before the last restart in place."""
    reason: Reason
    """Reason of the failure before the last restart in place."""
    lost_steps: Annotated[int, Field(ge=0, le=MAX_LOST_STEPS)] = 0
    """Number of optimizer steps after the newest checkpoint, which the ranks repeated or will repeat, over
    all restarts in place. Default: 0."""


class TerminationMessage(Model):
    """The termination message of a pod: the cause of its end; index 0 adds payload and result."""

    contract_version: str = CONTRACT_VERSION
    stage: Stage
    attempt: PositiveInt
    config_digest: Digest
    failure: Annotated[FailureClass, Field(alias="class")]
    reason: Reason
    message: Message
    hint: Hint = ""
    """What the user can do."""
    place: Place | None = None
    """Place of the failure: a line of the trainer's code, or the activity of a rank that recorded no error.
    The operator compares the places of two failed attempts."""
    step: NonNegativeInt | None = None
    epoch: FiniteFloat | None = None
    peak_memory_bytes: NonNegativeInt | None = None
    """Greatest memory of all processes of the pod, without caches of files; None if unknown."""
    checkpoint: CheckpointRef | None = None
    """Train: the newest complete checkpoint of the run; None if there is none."""
    resumed_from_step: NonNegativeInt | None = None
    """Train: optimizer step of the checkpoint from which the attempt resumed; None if the attempt started at
    the first step."""
    seconds: SecondsByUse | None = None
    """Train: time of rank 0 by use; None from other pods and stages."""
    in_place_restarts: InPlaceRestarts | None = None
    """Train: the restarts in place of the attempt; None if there was none."""
    payload: Payload | None = None
    result: ResultRef | None = None

    def encode(self) -> bytes:
        """Encodes the message as JSON of at most 4,096 bytes.

        If the document is too long, the method shortens it in this order, as far as needed: digits beyond
        six, the hint, the message, all metrics except the primary metric, the reference to the result, the
        account of the rows. A reader without the reference can find the result by a listing of the folder of
        the run.
        """
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if _excess(document) > 0:
            document = _rounded(document)
        for text in ("hint", "message"):
            if (over := _excess(document)) > 0:
                document[text] = _shorten(document[text], over)
        if _excess(document) > 0:
            _keep_primary_metric(document.get("payload", {}).get("evaluation", {}))
        if _excess(document) > 0:
            document.pop("result", None)
        if _excess(document) > 0:
            document.get("payload", {}).pop("account", None)
        return _json(document)

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Decodes the termination message of a pod. The content comes from a tenant and is not trusted.

        Args:
            text: the termination message.

        Raises:
            ContractError: the message is no JSON, is longer than 4,096 bytes, has another major version, or
                has a field out of bounds.
        """
        if len(text) > MAX_MESSAGE_BYTES:
            raise ContractError(f"termination message of {len(text)} bytes; the limit is {MAX_MESSAGE_BYTES}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ContractError(f"termination message is not JSON: {error}") from None
        version = document.get("contractVersion") if isinstance(document, dict) else None
        if not isinstance(version, str) or not speaks(version):
            raise ContractError(f"contract version {version!r}; the expected version is {CONTRACT_VERSION}")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ContractError(f"termination message: {where}: {first['msg']}") from None


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _excess(document: dict[str, Any]) -> int:
    return len(_json(document)) - MAX_MESSAGE_BYTES


def _rounded(value: Any) -> Any:
    """The document with all numbers rounded to six significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _keep_primary_metric(evaluation: dict[str, Any]) -> None:
    for scores in evaluation.values():
        if isinstance(scores, dict):
            primary = evaluation["primaryMetric"]
            scores["metrics"] = {name: value for name, value in scores["metrics"].items() if name == primary}


def _shorten(text: str, by: int) -> str:
    keep = max(0, len(text) - by - 8)
    return text[:keep] + "..." if keep else ""
