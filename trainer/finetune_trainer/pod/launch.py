"""PURE. The program that a pod starts for its stage, the environment of the program, and its ranks."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import ROUND_VARIABLE, Stage
from finetune_trainer.paths import Paths

RANK_PROGRAM = ("-m", "finetune_trainer.pod.rank")
AGENT_PATIENCE_SECONDS = 5
"""Time from SIGTERM to SIGKILL that torchrun gives its ranks when torchrun receives a signal (default 30)."""
_LEAST_RENDEZVOUS_SECONDS = 10
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""Makes the C library return freed tensors of at least 1 MiB to the system, see mallopt(3). By default, the C
library keeps freed blocks of up to 32 MiB, and a process on CPUs needed 20 % more memory. Measured with 81
million parameters: 2.6 GB instead of 3.1 GB, and 4 % more time for each step."""
COMPILER = {"TORCHDYNAMO_DISABLE": "1"}
"""Keeps bitsandbytes from loading the compiler of torch, which the trainer does not use. A rank needs 10 s
instead of 11 s of CPU time for its imports."""


@dataclass(frozen=True)
class Launch:
    """The program that the supervisor starts in this pod."""

    argv: tuple[str, ...]
    """Program and arguments."""
    environment: Mapping[str, str]
    """Environment variables of the program."""
    ranks: tuple[int, ...]
    """Global ranks of this pod."""
    agent: bool
    """True: the program is torchrun, which starts the ranks. False: the program is the only rank."""
    needs_rendezvous: bool
    """Whether the gang has several pods."""


def launch(
    config: TrainConfig,
    paths: Paths,
    *,
    node: int,
    cpus: int,
    environment: Mapping[str, str],
    seconds_left: float,
    current_round: int = 0,
    program: Sequence[str] = RANK_PROGRAM,
) -> Launch:
    """The program to start for a stage: torchrun for Train, the rank itself for every other stage.

    Args:
        config: the configuration of the trainer.
        paths: the folders of the pod; the ranks receive the root.
        node: index of this pod in its gang.
        cpus: number of CPUs that this pod may use; divided among its processes.
        environment: environment variables of the supervisor; the program inherits them.
        seconds_left: seconds until the start-up deadline; the time-out of the rendezvous of torchrun.
        current_round: number of restarts in place of the attempt so far.
        program: arguments of Python that run a rank.
    """
    environment = with_round(environment, current_round)
    world = config.world
    rank = (*program, "--root", str(paths.root))
    if config.stage is not Stage.TRAIN:
        return Launch(
            argv=(sys.executable, *rank),
            environment=_environment(environment, cpus),
            ranks=(0,),
            agent=False,
            needs_rendezvous=False,
        )
    first = node * world.processes_per_node
    meeting = config.rendezvous
    python = ("--no-python", sys.executable)
    return Launch(
        argv=(
            *(sys.executable, "-m", "finetune_trainer.pod.agent", str(paths.agent)),
            f"--nnodes={world.nodes}",
            f"--nproc-per-node={world.processes_per_node}",
            f"--node-rank={node}",
            f"--master-addr={meeting.master_address}",
            f"--master-port={meeting.master_port}",
            "--max-restarts=0",
            f"--shutdown-timeout={AGENT_PATIENCE_SECONDS}",
            f"--rdzv-conf=timeout={max(_LEAST_RENDEZVOUS_SECONDS, int(seconds_left))}",
            *python,
            *rank,
        ),
        environment=_environment(environment, max(1, cpus // world.processes_per_node)),
        ranks=tuple(range(first, first + world.processes_per_node)),
        agent=True,
        needs_rendezvous=world.nodes > 1,
    )


def with_round(environment: Mapping[str, str], current_round: int) -> dict[str, str]:
    """The environment of a program of a round; not changed in the first round.

    Args:
        environment: environment variables.
        current_round: number of restarts in place of the attempt so far.
    """
    return {**environment, **({ROUND_VARIABLE: str(current_round)} if current_round else {})}


def _environment(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """Returns the environment of a rank. Variables of the pod, such as those of the profile, take precedence.

    Without OMP_NUM_THREADS, torchrun uses 1 thread for each process, and torch uses all CPUs of the host.
    """
    return {"OMP_NUM_THREADS": str(threads), **MALLOC, **COMPILER, **inherited, "PYTHONUNBUFFERED": "1"}
