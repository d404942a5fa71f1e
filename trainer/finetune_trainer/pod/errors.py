"""PURE. Converts an unexpected exception into a StageFailure.

The text of an exception may quote a row, so messages include only texts of known origin. This module imports
no large library: a library that was never imported cannot have raised an exception.
"""

import errno
import os
import re
import sys
import traceback

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure

PEER_LOST = "PeerLost"
"""The reason of a process that ended because a peer ended; `classify` treats this reason as a consequence."""
_STORE_PACKAGES = {"obstore", "minio", "urllib3"}
_GPU_MEMORY = re.compile(
    r"CUDA out of memory(\. Tried to allocate [\d.]+ \w+)?|CUDA error: out of memory"
    r"|CU(DNN|BLAS)_STATUS_ALLOC_FAILED"
)
_HOST_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory(: you tried to allocate \d+ bytes)?"
    r"|Cannot allocate memory"
)
_COMMUNICATION = re.compile(
    r"Connection (closed|reset) by peer( \[[0-9a-f:.\]]+)?|Timed out waiting \d+ms for (recv|send) operation|"
    r"\bgloo\b.*(timed out|closed)|gloo/[\w/.:]*|NCCL (error|Error)|ncclRemoteError|ncclSystemError|"
    r"store->get|Socket Timeout|Broken pipe",
    re.IGNORECASE,
)
_PACKAGE = "/finetune_trainer/"
_HEAD = "Traceback (most recent call last):\n"
_MEMORY_HINT = "Set training.microBatchSize to 1, lower training.maxLength, or raise resources.memory."


def explain(error: BaseException) -> StageFailure:
    """The failure that corresponds to an exception: class, reason, message without row values, and hint."""
    text = _sentence(error)
    if _is(error, "torch", "OutOfMemoryError") or _match(_GPU_MEMORY, error):
        hint = "Set training.microBatchSize to 1, lower training.maxLength, or raise deepspeed.zeroStage."
        return StageFailure(FailureClass.OUT_OF_MEMORY, "GpuMemoryExhausted", text, hint)
    if isinstance(error, MemoryError) or _number(error) == errno.ENOMEM or _match(_HOST_MEMORY, error):
        return StageFailure(FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted", text, _MEMORY_HINT)
    if _number(error) == errno.ENOSPC:
        hint = "The pod's scratch or cache volume is too small for this model or data set."
        return StageFailure(FailureClass.INTERNAL, "ScratchFull", text, hint)
    if _is_of_store(error):
        return StageFailure(FailureClass.STORAGE, "StorageFailed", text)
    if _is(error, "torch.distributed", "DistError") or _match(_COMMUNICATION, error):
        hint = "A peer ended or cannot be reached; look at the termination message of the peer."
        return StageFailure(FailureClass.COMMUNICATION, PEER_LOST, text, hint)
    hint = (
        "The log has the traceback. The text of the error may quote rows, so the text is only in the folder"
        " evidence/errors/ of this attempt in S3."
    )
    return StageFailure(FailureClass.INTERNAL, "UnexpectedError", text, hint)


def place_of(error: BaseException) -> str | None:
    """The line of code that raised an error, such as `training/loop.py:212`.

    Args:
        error: the error.

    Returns:
        The last line of the trainer's code in the traceback, with the path below the package; the last line
        of the traceback if it has no line of the trainer; None for an error that was never raised.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return None
    frame = next((f for f in reversed(frames) if _PACKAGE in f.filename), frames[-1])
    _, package, below = frame.filename.rpartition(_PACKAGE)
    file = below if package else frame.filename.rpartition("/")[2]
    return f"{file}:{frame.lineno}"


def trace(error: BaseException) -> str:
    """Formats the tracebacks of an error and its causes as Python does, without texts that may quote rows."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    parts = [
        "".join([_HEAD, *traceback.format_tb(each.__traceback__), _named(each), "\n"])
        for each in reversed(chain)
    ]
    return "\nThe exception above caused the following exception:\n\n".join(parts)


def _sentence(error: BaseException) -> str:
    """Type, text, file and line of an error, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _PACKAGE in frame.filename] or list(frames)
    where = f" ({ours[-1].filename.rpartition('/')[2]}, line {ours[-1].lineno})" if ours else ""
    return f"{_named(error)[:900]}{where}"


def _named(error: BaseException) -> str:
    """The type of an error, followed by the part of its text that cannot quote a row."""
    text = " ".join(_quotable(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _quotable(error: BaseException) -> str:
    """The part of an error's text that cannot quote a row: the whole text, a known phrase, or nothing."""
    if isinstance(error, StageFailure | MemoryError) or _is_of_store(error):
        return str(error)
    if _is(error, "torch", "OutOfMemoryError") or _is(error, "torch.distributed", "DistError"):
        return str(error)
    if (number := _number(error)) is not None:
        return os.strerror(number)
    for pattern in (_GPU_MEMORY, _HOST_MEMORY, _COMMUNICATION):
        if phrase := _match(pattern, error):
            return phrase[0]
    return ""


def _is_of_store(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _STORE_PACKAGES


def _is(error: BaseException, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(error, kind)


def _match(pattern: re.Pattern[str], error: BaseException) -> re.Match[str] | None:
    """Matches the text of a RuntimeError: C++ libraries raise RuntimeError for every kind of error."""
    return pattern.search(str(error)) if isinstance(error, RuntimeError) else None


def _number(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None
