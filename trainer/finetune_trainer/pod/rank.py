"""One rank: sends heartbeats, runs its stage or returns the stored result of the stage, records its outcome.

Signals: SIGUSR1 requests the end of the rank after the current step. SIGUSR2 makes the rank write its stacks.
SIGTERM comes only from torchrun, after the death of a peer; SIGTERM has no handler, so that SIGTERM ends the
rank also inside a collective operation.
"""

import argparse
import contextlib
import faulthandler
import importlib
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol, cast

from pydantic import JsonValue

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Activity, ExitCode, FailureClass, ResultRef, Stage, TerminationMessage
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.paths import Paths
from finetune_trainer.pod import console
from finetune_trainer.pod.errors import explain, place_of
from finetune_trainer.pod.heartbeat_file import FileHeartbeat
from finetune_trainer.stages.result import StageResult

_DURABLE = {Stage.PREPARE, Stage.TRAIN, Stage.PUBLISH}
"""Stages whose result is stored. Readback reads a stored result, and Cleanup must leave no object in S3."""

log = logging.getLogger(__name__)


class _StageModule(Protocol):
    """The interface of a stage module."""

    def run(self, config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
        """Runs the stage."""


class _Leave(BaseException):
    """Raised by SIGUSR1 in a stage of one process, to end at once: a new attempt repeats the whole stage."""


def main(paths: Paths) -> ExitCode:
    """Runs this rank and records its outcome in the rank file.

    Args:
        paths: the folders of the pod.

    Returns:
        The exit code: 0 after success or preemption, else the code of the failure class.

    Raises:
        ConfigError: the config file cannot be used.
    """
    rank = int(os.environ.get("RANK", "0"))
    console.set_up(sys.stderr, f"rank {rank}: %(name)s")
    config = TrainConfig.read(paths.config)
    paths.stacks.mkdir(parents=True, exist_ok=True)
    faulthandler.enable()
    stack = (paths.stacks / f"{rank}.txt").open("w")
    faulthandler.register(signal.SIGUSR2, stack, all_threads=True)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    heartbeat = FileHeartbeat(config, paths, rank)
    try:
        # The handlers come before the rank file, because the supervisor signals only pids in rank files.
        signal.signal(signal.SIGUSR1, _on_leave(heartbeat, at_once=config.stage is not Stage.TRAIN))
        heartbeat.beat(Activity.STARTING)
        result, stored = _stage(config, paths, heartbeat, rank)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    except _Leave:
        text = f"The rank ended on request while {heartbeat.activity}; a new attempt repeats the whole stage."
        heartbeat.end(failure=FailureClass.PREEMPTED, reason="Preempted", message=text)
        return ExitCode.SUCCESS
    except BaseException as error:  # noqa: BLE001 - every exception gets a failure class
        heartbeat.hold()
        return _failed(error, heartbeat, paths.errors / f"{rank}.txt")
    heartbeat.end(
        failure=FailureClass.SUCCESS,
        reason="Done",
        message=result.message[:1000],
        step=result.step,
        epoch=result.epoch,
        payload=result.payload,
        result=stored,
    )
    return ExitCode.SUCCESS


def _stage(
    config: TrainConfig, paths: Paths, heartbeat: FileHeartbeat, rank: int
) -> tuple[StageResult, ResultRef | None]:
    """Runs the stage, or returns the stored result if an earlier pod has finished the stage.

    Returns:
        The result, and the reference to the stored result (None for stages without a stored result, and on
        all ranks but rank 0).
    """
    if config.stage not in _DURABLE:
        return _module(config.stage).run(config, paths, heartbeat), None
    # The import of the S3 client takes long, so it follows the first heartbeat.
    from finetune_trainer.s3 import results  # noqa: PLC0415
    from finetune_trainer.s3.store import open_store  # noqa: PLC0415

    store = open_store(config.run.stores.output, "output", paths)
    found = results.find(store, config, config.stage)
    if found:
        log.info("%s is already done: %s", config.stage, found.result.uri if found.result else "")
        return StageResult(found.payload, found.message, found.step, found.epoch), found.result
    began = time.time()
    result = _module(config.stage).run(config, paths, heartbeat)
    heartbeat.hold()
    if rank != 0:
        return result, None
    message = TerminationMessage(
        stage=config.stage,
        attempt=config.attempt,
        config_digest=config.run.digest(),
        failure=FailureClass.SUCCESS,
        reason="Done",
        message=result.message[:1000],
        step=result.step,
        epoch=result.epoch,
        payload=result.payload,
    )
    detail: dict[str, JsonValue] = {
        "startedAt": began,
        "endedAt": time.time(),
        "node": os.environ.get("NODE_NAME", ""),
    }
    return result, results.save(store, config, config.stage, message, detail)


def _module(stage: Stage) -> _StageModule:
    """Imports the module of a stage. Only this import may import torch."""
    return cast("_StageModule", importlib.import_module(f"finetune_trainer.stages.{stage.lower()}"))


def _on_leave(heartbeat: FileHeartbeat, *, at_once: bool) -> "_Handler":
    def leave(_number: int, _frame: FrameType | None) -> None:
        heartbeat.request_leave()
        if at_once and not heartbeat.held:
            raise _Leave

    return leave


class _Handler(Protocol):
    def __call__(self, number: int, frame: FrameType | None, /) -> None: ...


def _failed(error: BaseException, heartbeat: FileHeartbeat, whole: Path) -> ExitCode:
    """Records an error: the traceback in the log, the failure in the rank file, the full text in `whole`.

    Only the file `whole` may quote rows of the data.
    """
    failure = error if isinstance(error, StageFailure) else explain(error)
    if failure.failure is not FailureClass.PREEMPTED:
        console.write_traceback(error)
        with contextlib.suppress(OSError):
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_text("".join(traceback.format_exception(error)), errors="backslashreplace")
    try:
        heartbeat.end(
            failure=failure.failure,
            reason=failure.reason,
            message=_printable(failure.message[:1000]),
            hint=_printable(failure.hint[:500]),
            place=_printable(place[:128]) if (place := place_of(error)) else None,
        )
    except OSError:
        log.exception("cannot write the rank file; only the exit code reports the failure class")
    return ExitCode.SUCCESS if failure.failure is FailureClass.PREEMPTED else ExitCode.of(failure.failure)


def _printable(text: str) -> str:
    """Replaces surrogates, which come from file names that are not UTF-8 and which JSON cannot encode."""
    return text.encode(errors="replace").decode()


def leave(code: int) -> NoReturn:
    """Ends the process without waiting for threads and destructors.

    The destructors of NCCL may wait for lost peers, and the destructors of gloo may abort the process.

    Args:
        code: the exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    leave(main(Paths(parser.parse_args().root)))
