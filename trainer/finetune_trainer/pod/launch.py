"""PURE. The program that a pod starts for its stage, the environment of the program, and its ranks."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Stage
from finetune_trainer.paths import Paths

RANK_PROGRAM = ("-m", "finetune_trainer.pod.rank")
AGENT_PATIENCE_SECONDS = 5
"""Time from SIGTERM to SIGKILL that torchrun gives its ranks when torchrun receives a signal (default 30)."""
_LEAST_RENDEZVOUS_SECONDS = 10


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
        program: arguments of Python that run a rank.
    """
    world = config.run.world
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


def _environment(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """Sets OMP_NUM_THREADS: without it, torchrun uses 1 thread a process, and torch all CPUs of the host."""
    return {"OMP_NUM_THREADS": str(threads), **inherited, "PYTHONUNBUFFERED": "1"}
