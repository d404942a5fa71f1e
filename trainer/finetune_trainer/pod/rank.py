"""One rank: says that it lives, runs its stage or re-reads a durable result, and says how it ended.

Signals: SIGUSR1 asks it to save and leave; SIGUSR2 makes it write its stack; SIGTERM, which only torchrun
sends and which means that a peer died, keeps its default and ends it at once, even inside a collective.
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
"""Stages whose result is stored. A report re-reads one; a cleanup must leave nothing behind."""

log = logging.getLogger(__name__)


class _StageModule(Protocol):
    """What every stage module has."""

    def run(self, config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
        """Runs the stage."""


class _Leave(BaseException):
    """SIGUSR1 in a stage of one process: it is started again from the beginning, so it leaves at once."""


def main(paths: Paths) -> ExitCode:
    """Runs this rank; its rank file says all that the exit code cannot."""
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
        # The file comes after the handlers: until it exists nobody knows this pid and sends signals.
        signal.signal(signal.SIGUSR1, _on_leave(heartbeat, at_once=config.stage is not Stage.TRAIN))
        heartbeat.beat(Activity.STARTING)
        result, stored = _stage(config, paths, heartbeat, rank)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    except _Leave:
        text = f"Told to leave while {heartbeat.activity}; the stage is started again from the beginning."
        heartbeat.end(failure=FailureClass.PREEMPTED, reason="Preempted", message=text)
        return ExitCode.SUCCESS
    except BaseException as error:  # noqa: BLE001 - whatever it is, it gets a class
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
    """Does the work, unless a pod before this one has finished it."""
    if config.stage not in _DURABLE:
        return _module(config.stage).run(config, paths, heartbeat), None
    # The S3 client is only needed here, and importing it must come after the first sign of life.
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
    """The stage's module; torch is imported here or not at all."""
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
    """The traceback to the log, one sentence to the rank file; what may quote rows to a file of evidence."""
    failure = error if isinstance(error, StageFailure) else explain(error)
    if failure.failure is not FailureClass.PREEMPTED:
        console.show(error)
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
        log.exception("the rank file could not be written; the exit code has to do")
    return ExitCode.SUCCESS if failure.failure is FailureClass.PREEMPTED else ExitCode.of(failure.failure)


def _printable(text: str) -> str:
    """Without half characters, which come from undecodable file names and are no JSON."""
    return text.encode(errors="replace").decode()


def leave(code: int) -> NoReturn:
    """Ends without waiting for threads and destructors: NCCL's may wait for lost peers, gloo's may abort."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    leave(main(Paths(parser.parse_args().root)))
