"""PURE. Which program a pod starts for its stage, with what environment, and which ranks it will hold."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Stage
from finetune_trainer.paths import Paths

RANK_PROGRAM = ("-m", "finetune_trainer.pod.rank")
AGENT_PATIENCE_SECONDS = 5
"""What torchrun gives its ranks between SIGTERM and SIGKILL when it is told to stop (its default is 30)."""
_LEAST_RENDEZVOUS_SECONDS = 10


@dataclass(frozen=True)
class Launch:
    """One program to start in this pod."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    ranks: tuple[int, ...]
    """Global ranks that live in this pod."""
    agent: bool
    """Whether the program is torchrun, which starts the ranks, or is itself the one rank."""
    meets: bool
    """Whether it must find other pods first."""


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
    """What to start for a stage.

    Args:
        config: the trainer's input.
        paths: its root is handed on to the ranks.
        node: index of this pod in its gang.
        cpus: CPUs that this pod may use; shared out among its processes.
        environment: this process's own, handed on.
        seconds_left: of the start-up deadline; bounds torchrun's own rendezvous.
        program: what Python runs as a rank.
    """
    world = config.run.world
    rank = (*program, "--root", str(paths.root))
    if config.stage is not Stage.TRAIN:
        return Launch(
            argv=(sys.executable, *rank),
            environment=_environment(environment, cpus),
            ranks=(0,),
            agent=False,
            meets=False,
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
        meets=world.nodes > 1,
    )


def _environment(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """Unasked, torchrun gives every process one thread, and torch alone takes all CPUs of the host."""
    return {"OMP_NUM_THREADS": str(threads), **inherited, "PYTHONUNBUFFERED": "1"}
