"""Runs the real rank with a scripted stage: --script 0=succeed,1=exit-7,... --root DIR.

A rank with several behaviours, such as `0=kill/succeed`, has the next behaviour after each restart in place.
"""

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import ROUND_VARIABLE, Activity, CheckpointRef, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.paths import Paths
from finetune_trainer.pod import rank
from finetune_trainer.stages.result import StageResult

NUMBER = os.environ.get("RANK", "0")
SAVE_SECONDS = float(os.environ.get("SAVE_SECONDS", "1"))
DONE = StageResult(None, "scripted and done", step=7)
Behaviour = Callable[[Paths, Heartbeat], StageResult]


def leave(code: int) -> Behaviour:
    def behave(_paths: Paths, _heartbeat: Heartbeat) -> StageResult:
        os._exit(code)

    return behave


def die(number: signal.Signals) -> Behaviour:
    def behave(_paths: Paths, _heartbeat: Heartbeat) -> StageResult:
        os.kill(os.getpid(), number)
        time.sleep(3600)
        return DONE

    return behave


def fail(error: Exception) -> Behaviour:
    def behave(_paths: Paths, _heartbeat: Heartbeat) -> StageResult:
        raise error

    return behave


def succeed(_paths: Paths, _heartbeat: Heartbeat) -> StageResult:
    return DONE


def work(paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Works until the request to end, then takes SAVE_SECONDS to end."""
    step = 0
    while not heartbeat.leave_requested:
        step += 1
        heartbeat.beat(Activity.TRAINING, step=step, percent=50, loss=0.5)
        time.sleep(0.02)
    heartbeat.beat(Activity.SAVING, quiet_seconds=SAVE_SECONDS + 60)
    time.sleep(SAVE_SECONDS)
    (paths.scratch / f"saved-{NUMBER}").write_text(str(step))
    raise StageFailure(FailureClass.PREEMPTED, "Preempted", f"saved at step {step}")


def fail_to_save(paths: Paths, heartbeat: Heartbeat) -> StageResult:
    while not heartbeat.leave_requested:
        heartbeat.beat(Activity.TRAINING, step=1)
        time.sleep(0.02)
    del paths
    raise StageFailure(FailureClass.STORAGE, "StorageDenied", "no right to write", "ask for it")


def hang(_paths: Paths, heartbeat: Heartbeat) -> StageResult:
    heartbeat.beat(Activity.EVALUATING, quiet_seconds=1.5, step=3)
    time.sleep(3600)
    return DONE


def freeze(_paths: Paths, heartbeat: Heartbeat) -> StageResult:
    heartbeat.beat(Activity.TRAINING, quiet_seconds=1.5, step=3)
    os.kill(os.getpid(), signal.SIGSTOP)
    return DONE


def deaf(_paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Ignores SIGUSR1 and SIGTERM, and sends heartbeats."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        heartbeat.beat(Activity.TRAINING, step=1)
        time.sleep(0.02)


def lose_peer(paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Works until the file `peer-lost` exists in the scratch folder, then fails as if a peer had ended."""
    while not (paths.scratch / "peer-lost").exists():
        heartbeat.beat(
            Activity.TRAINING, step=9, checkpoint=CheckpointRef(step=5, digest="sha256:" + 64 * "a")
        )
        time.sleep(0.02)
    raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer")


def chatter(_paths: Paths, _heartbeat: Heartbeat) -> StageResult:
    sys.stdout.writelines(f"line {number}\n" for number in range(1_000_000))
    return DONE


def mutter(_paths: Paths, _heartbeat: Heartbeat) -> StageResult:
    for _ in range(64):
        sys.stdout.write("." * 1_000_000)
    return DONE


def leave_a_child(_paths: Paths, _heartbeat: Heartbeat) -> StageResult:
    """Starts a child in a new session, which outlives its parent and keeps the pipe open."""
    if not os.fork():
        os.setsid()
        time.sleep(3600)
    return DONE


def allocate(_paths: Paths, heartbeat: Heartbeat) -> StageResult:
    kept = []
    while True:
        heartbeat.beat(Activity.TRAINING)
        kept.append(bytearray(b"x" * 16_000_000))


def crash(_paths: Paths, _heartbeat: Heartbeat) -> StageResult:
    ctypes.string_at(0)
    return DONE


BEHAVIOURS: dict[str, Behaviour] = {
    "succeed": succeed,
    "work": work,
    "fail-to-save": fail_to_save,
    "hang": hang,
    "freeze": freeze,
    "deaf": deaf,
    "lose-peer": lose_peer,
    "chatter": chatter,
    "mutter": mutter,
    "leave-a-child": leave_a_child,
    "allocate": allocate,
    "crash": crash,
    "exit-0": leave(0),
    "exit-1": leave(1),
    "exit-7": leave(7),
    "kill": die(signal.SIGKILL),
    "terminate": die(signal.SIGTERM),
    "bus-error": die(signal.SIGBUS),
    "storage": fail(StageFailure(FailureClass.STORAGE, "StorageDenied", "no right to write", "ask for it")),
    "bug": fail(KeyError("labels")),
    "memory": fail(MemoryError()),
    "peer": fail(
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer")
    ),
}


class Stage:
    """A stage module with a scripted behaviour."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    def run(self, _config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
        return self.behaviour(paths, heartbeat)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--script", required=True)
    parser.add_argument("--root", type=Path, required=True)
    arguments = parser.parse_args()
    mine, *later = dict(part.split("=") for part in arguments.script.split(","))[NUMBER].split("/")
    for after in later[: int(os.environ.get(ROUND_VARIABLE, "0"))]:
        mine = after
    if mine == "never-start":
        time.sleep(3600)
    rank._DURABLE = set()
    rank._module = lambda _stage: Stage(BEHAVIOURS[mine])
    rank.leave(rank.main(Paths(arguments.root)))
