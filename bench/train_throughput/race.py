"""All contenders of a case as processes that stay, each training an epoch whenever it is its turn."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.train_throughput import environment
from bench.train_throughput.cases import Case, Contender, lessons
from bench.train_throughput.figures import Measured, Trained
from bench.train_throughput.lesson import STILL, Lesson
from devcluster.controlplane import free_ports
from devcluster.places import REPOSITORY, DevclusterError
from devcluster.progress import step

WARM_UP_EPOCHS = 1
"""Epochs that are not counted."""
STILL_ROWS = 32
"""Of the step that is compared."""
_LOG_CHARS = 600


@dataclass(frozen=True)
class Running:
    """A contender at work."""

    contender: Contender
    process: subprocess.Popen[str]
    log: Path

    def told(self) -> Any:
        """The next thing that it says.

        Raises:
            DevclusterError: it has ended.
        """
        line = _there(self.process.stdout).readline()
        if not line:
            said = self.log.read_text(errors="replace")[-_LOG_CHARS:]
            raise DevclusterError(f"{self.contender.name} ended: {said}")
        return json.loads(line)

    def epoch(self) -> Any:
        """Waits until it can begin an epoch, and lets it; what it says afterwards."""
        self.told()
        print(file=_there(self.process.stdin), flush=True)
        return self.told()


def measured(case: Case, folder: Path, rounds: int, threads: int) -> Measured:
    """Trains a case.

    Args:
        case: which.
        folder: with the models.
        rounds: epochs of each contender that count.
        threads: of each contender; only one works at a time.

    Raises:
        DevclusterError: a contender ended early.
    """
    given = lessons(case, folder, WARM_UP_EPOCHS + rounds)
    still = folder / f"{case.model}{STILL}"
    with ExitStack() as stack:
        with step(f"{case.name}: {len(given)} contenders load the model and take one step"):
            running = [
                stack.enter_context(_started(contender, lesson, still, threads))
                for contender, lesson in zip(case.contenders, given, strict=True)
            ]
            first = [runner.told() for runner in running]
        with step(f"{case.name}: warm-up"):
            for runner in running:
                runner.epoch()
        taken = []
        for number in range(1, rounds + 1):
            with step(f"{case.name}: round {number} of {rounds}"):
                taken.append([runner.epoch() for runner in running])
        last = [runner.told() for runner in running]
    with np.load(given[0].rows) as rows:
        tokens = int(rows["offsets"][-1])
    return Measured(
        case=case.name,
        rows=case.rows,
        tokens=tokens,
        batch=case.batch,
        micro_batch=case.micro_batch,
        contenders=tuple(
            Trained(
                name=contender.name,
                still_loss=said["still"]["loss"],
                still_gradient_norm=said["still"]["gradient_norm"],
                seconds=tuple(epoch[place]["seconds"] for epoch in taken),
                cpu_seconds=tuple(epoch[place]["cpuSeconds"] for epoch in taken),
                steps=taken[-1][place]["steps"] // (WARM_UP_EPOCHS + rounds),
                loss=last[place]["loss"],
                versions=said["versions"],
            )
            for place, (contender, said) in enumerate(zip(case.contenders, first, strict=True))
        ),
    )


@contextmanager
def _started(contender: Contender, lesson: Lesson, still: Path, threads: int) -> Iterator[Running]:
    python = environment.python() if contender.has_own_environment else Path(sys.executable)
    module = f"{__package__}.contender"
    command = [str(python), "-m", module, contender.module, lesson.written(), str(still), str(STILL_ROWS)]
    log = still.parent / f"{lesson.task}-{contender.module}-{contender.way}.log"
    surroundings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    if contender.module == "ours":
        surroundings |= _gang_of_one()
    with (
        log.open("w") as errors,
        subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=REPOSITORY,
            env=os.environ | surroundings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Running(contender, process, log)
        finally:
            process.kill()


def _gang_of_one() -> dict[str, str]:
    """What torchrun would say."""
    (port,) = free_ports(1)
    own = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    return own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _there(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise DevclusterError("a contender without pipes")
    return pipe
