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
"""The kubelet keeps no more of a termination message."""


class CheckpointRef(Model):
    """A durable checkpoint."""

    step: NonNegativeInt
    digest: Digest


class ResultRef(Model):
    """Where the complete result of a stage lies."""

    uri: Uri
    digest: Digest


class TerminationMessage(Model):
    """The last word of a pod: its own cause; index 0 adds payload and result."""

    contract_version: str = CONTRACT_VERSION
    stage: Stage
    attempt: PositiveInt
    config_digest: Digest
    failure: Annotated[FailureClass, Field(alias="class")]
    reason: Reason
    message: Message
    hint: Hint = ""
    """What the reader can do about it."""
    place: Place | None = None
    """Where the failure arose: the line of the trainer, or the activity of a rank that left no error. The
    operator compares the places of two failed attempts."""
    step: NonNegativeInt | None = None
    epoch: FiniteFloat | None = None
    checkpoint: CheckpointRef | None = None
    """Reserved; not set yet."""
    payload: Payload | None = None
    result: ResultRef | None = None

    def encode(self) -> bytes:
        """The message as JSON of at most 4,096 bytes.

        What gives way, in this order and only as far as needed: digits beyond six, the hint, the message,
        metrics beside the primary one, and the result's place, which can be listed.
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
        return _json(document)

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Reads a message of a tenant's pod.

        Raises:
            ContractError: not JSON, too long, of another major version, or with fields out of bounds.
        """
        if len(text) > MAX_MESSAGE_BYTES:
            raise ContractError(f"termination message of {len(text)} bytes, at most {MAX_MESSAGE_BYTES}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ContractError(f"termination message is not JSON: {error}") from None
        version = document.get("contractVersion") if isinstance(document, dict) else None
        if not isinstance(version, str) or not speaks(version):
            raise ContractError(f"contract version {version!r}, this side speaks {CONTRACT_VERSION}")
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
    """The same with all numbers cut to six significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _keep_primary_metric(evaluation: dict[str, Any]) -> None:
    for scores in evaluation.values():
        if isinstance(scores, dict):
            primary = evaluation["primaryMetric"]
            scores["metrics"] = {name: told for name, told in scores["metrics"].items() if name == primary}


def _shorten(text: str, by: int) -> str:
    keep = max(0, len(text) - by - 8)
    return text[:keep] + "..." if keep else ""
