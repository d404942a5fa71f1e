"""Stores and finds the results of stages in S3.

`<run.runs>attempts/<stage>-<attempt>-<writer>/result.json` contains the termination message, and under the
key `detail` the data that is too large for a termination message. The writer is the first 8 characters of the
pod's uid; after a restart in place, a hyphen and the round follow.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping

from pydantic import JsonValue

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import ROUND_VARIABLE, FailureClass, ResultRef, Stage, TerminationMessage
from finetune_trainer.s3.objects import ObjectInfo
from finetune_trainer.s3.store import Store

_RESULT = re.compile(r"attempts/(?P<stage>[a-z]+)-(?P<attempt>[0-9]+)-[0-9a-zA-Z-]+/result\.json$")
_LOCAL_UID = "00000000"


def writer() -> str:
    """The part of the names of folders that identifies their writer.

    Returns:
        The first 8 characters of the pod's uid, so that two pods never write to the same folder. After a
        restart in place, a hyphen and the round follow, so that two rounds never write to the same folder
        either.
    """
    pod, current = os.environ.get("POD_UID", _LOCAL_UID)[:8], os.environ.get(ROUND_VARIABLE)
    return f"{pod}-{current}" if current else pod


def save(
    store: Store,
    config: TrainConfig,
    stage: Stage,
    message: TerminationMessage,
    detail: Mapping[str, JsonValue] | None = None,
) -> ResultRef:
    """Stores the result of a stage in S3.

    Args:
        store: the output store.
        config: the configuration of the trainer.
        stage: the stage.
        message: the termination message; its field `result` is left out, because it refers to this object.
        detail: further values of the result.

    Returns:
        The reference to the stored result.

    Raises:
        StageFailure: a failure of the store.
    """
    uri = f"{config.run.runs}attempts/{stage.lower()}-{message.attempt}-{writer()}/result.json"
    document = message.model_copy(update={"result": None}).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    document["detail"] = dict(detail or {})
    data = json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
    return ResultRef(uri=uri, digest=store.write(uri, data).digest)


def find(store: Store, config: TrainConfig, stage: Stage) -> TerminationMessage | None:
    """Finds the stored success of a stage with the config digest of this run.

    Args:
        store: the output store.
        config: the configuration of the trainer.
        stage: the stage.

    Returns:
        The latest success, with its field `result`; None if there is none.

    Raises:
        StageFailure: a failure of the store.
    """
    digest = config.run.digest()
    for entry in _newest_first(store, config, stage):
        data = store.read(entry.uri)
        message = _message(data)
        if message and message.failure is FailureClass.SUCCESS and message.config_digest == digest:
            ref = ResultRef(uri=entry.uri, digest="sha256:" + hashlib.sha256(data).hexdigest())
            return message.model_copy(update={"result": ref})
    return None


def _newest_first(store: Store, config: TrainConfig, stage: Stage) -> list[ObjectInfo]:
    """Results sorted by attempt, then by time.

    The time alone does not decide, because some stores round it to seconds.
    """
    found = [
        (int(match["attempt"]), entry)
        for entry in store.list(f"{config.run.runs}attempts/{stage.lower()}-")
        if (match := _RESULT.search(entry.uri)) and match["stage"] == stage.lower()
    ]
    return [
        entry for _, entry in sorted(found, key=lambda result: (result[0], result[1].modified), reverse=True)
    ]


def _message(data: bytes) -> TerminationMessage | None:
    """Decodes a stored result; None if the document cannot be read, so that the stage runs again."""
    try:
        document = json.loads(data)
        document.pop("detail", None)
        return TerminationMessage.model_validate(document)
    except (ValueError, AttributeError, RecursionError):
        return None
