"""PURE. What an unforeseen exception means: its class, a reason, one sentence.

Nothing heavy is imported: a library that was never loaded cannot have raised.
"""

import errno
import re
import sys
import traceback

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure

PEER_LOST = "PeerLost"
"""The reason of a process that ended because another did; `classify` knows a consequence by it."""
_STORE_PACKAGES = {"obstore", "minio", "urllib3"}
_GPU_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CU(DNN|BLAS)_STATUS_ALLOC_FAILED")
_HOST_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory")
_COMMUNICATION = re.compile(
    r"gloo/|\bgloo\b.*(timed out|closed)|NCCL (error|Error)|ncclRemoteError|ncclSystemError|"
    r"Connection (closed|reset) by peer|Timed out waiting \d+ms for (recv|send) operation|"
    r"store->get|Socket Timeout|Broken pipe",
    re.IGNORECASE,
)
_MEMORY_HINT = "Lower training.microBatchSize or training.maxLength, or give more memory."


def explain(error: BaseException) -> StageFailure:
    """The failure that an exception stands for."""
    text = _sentence(error)
    if _is(error, "torch", "OutOfMemoryError") or _matches(_GPU_MEMORY, error):
        hint = "Lower training.microBatchSize or training.maxLength, or raise deepspeed.zeroStage."
        return StageFailure(FailureClass.OUT_OF_MEMORY, "GpuMemoryExhausted", text, hint)
    if isinstance(error, MemoryError) or _number(error) == errno.ENOMEM or _matches(_HOST_MEMORY, error):
        return StageFailure(FailureClass.OUT_OF_MEMORY, "HostMemoryExhausted", text, _MEMORY_HINT)
    if _number(error) == errno.ENOSPC:
        hint = "The pod's scratch or cache volume is too small for this model or data set."
        return StageFailure(FailureClass.INTERNAL, "ScratchFull", text, hint)
    if type(error).__module__.partition(".")[0] in _STORE_PACKAGES:
        return StageFailure(FailureClass.STORAGE, "StorageFailed", text)
    if _is(error, "torch.distributed", "DistError") or _matches(_COMMUNICATION, error):
        hint = "A peer ended or cannot be reached; its own message says more."
        return StageFailure(FailureClass.COMMUNICATION, PEER_LOST, text, hint)
    return StageFailure(FailureClass.INTERNAL, "UnexpectedError", text, "The log has the whole traceback.")


def _sentence(error: BaseException) -> str:
    """Type, text and place of an error, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "finetune_trainer" in frame.filename] or list(frames)
    where = f" ({ours[-1].filename.rpartition('/')[2]}, line {ours[-1].lineno})" if ours else ""
    text = " ".join(str(error).split())[:800]
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _is(error: BaseException, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(error, kind)


def _matches(pattern: re.Pattern[str], error: BaseException) -> bool:
    """Libraries in C++ say everything by RuntimeError; only the text tells."""
    return isinstance(error, RuntimeError) and bool(pattern.search(str(error)))


def _number(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None
