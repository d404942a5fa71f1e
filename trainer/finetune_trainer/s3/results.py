"""Durable results: what a stage reached outlives its pods.

`<run.runs>attempts/<stage>-<attempt>-<first 8 characters of the pod's uid>/result.json` holds the termination
message and, under `detail`, what is too large for it.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping

from pydantic import JsonValue

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import FailureClass, ResultRef, Stage, TerminationMessage
from finetune_trainer.s3.objects import ObjectInfo
from finetune_trainer.s3.store import Store

_RESULT = re.compile(r"attempts/(?P<stage>[a-z]+)-(?P<attempt>[0-9]+)-[0-9a-zA-Z-]+/result\.json$")
_LOCAL_UID = "00000000"


def writer() -> str:
    """Eight characters of this pod's uid: two pods of one attempt never write to the same place."""
    return os.environ.get("POD_UID", _LOCAL_UID)[:8]


def save(
    store: Store,
    config: TrainConfig,
    stage: Stage,
    message: TerminationMessage,
    detail: Mapping[str, JsonValue] | None = None,
) -> ResultRef:
    """Stores a result; the message's own `result` is left out, for it names this very object."""
    uri = f"{config.run.runs}attempts/{stage.lower()}-{message.attempt}-{writer()}/result.json"
    document = message.model_copy(update={"result": None}).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    document["detail"] = dict(detail or {})
    data = json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
    return ResultRef(uri=uri, digest=store.write(uri, data).digest)


def find(store: Store, config: TrainConfig, stage: Stage) -> TerminationMessage | None:
    """The newest success of a stage of this run and config, with `result` set; None if there is none."""
    digest = config.run.digest()
    for entry in _newest_first(store, config, stage):
        data = store.read(entry.uri)
        message = _message(data)
        if message and message.failure is FailureClass.SUCCESS and message.config_digest == digest:
            ref = ResultRef(uri=entry.uri, digest="sha256:" + hashlib.sha256(data).hexdigest())
            return message.model_copy(update={"result": ref})
    return None


def _newest_first(store: Store, config: TrainConfig, stage: Stage) -> list[ObjectInfo]:
    """By attempt, and by time only within one: not every store's clock tells two within a second apart."""
    found = [
        (int(match["attempt"]), entry)
        for entry in store.list(f"{config.run.runs}attempts/{stage.lower()}-")
        if (match := _RESULT.search(entry.uri)) and match["stage"] == stage.lower()
    ]
    return [entry for _, entry in sorted(found, key=lambda one: (one[0], one[1].modified), reverse=True)]


def _message(data: bytes) -> TerminationMessage | None:
    """A result that cannot be read counts as none: the stage runs again."""
    try:
        document = json.loads(data)
        document.pop("detail", None)
        return TerminationMessage.model_validate(document)
    except (ValueError, AttributeError, RecursionError):
        return None
