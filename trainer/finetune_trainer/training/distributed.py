"""The processes of one run as seen from one of them: meeting, agreeing, collecting, leaving."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.models.logistic_regression import Peers

_NO_TIMEOUT = timedelta(days=365)
_LOOK_SECONDS = 0.1
"""Time between two looks whether all ranks have come."""
Number = TypeVar("Number", bound=np.floating[Any])


@dataclass(frozen=True)
class Gang:
    """Where this process stands among the others."""

    rank: int
    local_rank: int
    world: int
    device: torch.device
    waiting: dist.ProcessGroup | None = None
    """The group of all ranks for `wait_for_all`, on gloo and without a time-out; None: the default group."""

    @property
    def first(self) -> bool:
        """Whether this is global rank 0, which writes everything that is written once."""
        return self.rank == 0


def meet(*, gpus: bool, startup_seconds: float, hang_seconds: float) -> Gang:
    """Joins the process group that torchrun's environment describes: NCCL on GPUs, gloo on CPUs.

    DeepSpeed's own initialisation is used, and before any TrainingArguments exist: at ZeRO-3 on CPUs it would
    otherwise take the world for one process.

    Args:
        gpus: whether the job asked for GPUs.
        startup_seconds: until all have joined.
        hang_seconds: how long a collective may take afterwards.

    Raises:
        StageFailure: Communication if the others do not come; UserConfig if a GPU is missing.
    """
    # At import DeepSpeed looks for a device; what the job asked for decides, not what the node has.
    os.environ["DS_ACCELERATOR"] = "cuda" if gpus else "cpu"
    import deepspeed  # noqa: PLC0415

    local_rank = int(os.environ["LOCAL_RANK"])
    if gpus:
        if torch.cuda.device_count() <= local_rank:
            raise StageFailure(
                FailureClass.USER_CONFIG,
                "GpuMissing",
                f"process {local_rank} of this pod has no GPU; the pod sees {torch.cuda.device_count()}",
                "check resources.gpusPerNode against what the nodes offer",
            )
        torch.cuda.set_device(local_rank)
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if gpus else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=startup_seconds),
        )
        # Joining is lazy: the first collective is what shows that everybody is there.
        dist.barrier()
    except (RuntimeError, ValueError) as error:
        raise StageFailure(
            FailureClass.COMMUNICATION,
            "RendezvousFailed",
            f"not all processes met within {startup_seconds:.0f} s: {error}"[:1000],
            "look at the pods that did not start or died early",
        ) from error
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=hang_seconds))  # noqa: SLF001 - no public way
    device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
    waiting = dist.new_group(backend="gloo", timeout=_NO_TIMEOUT)
    return Gang(dist.get_rank(), local_rank, dist.get_world_size(), device, waiting)


def wait_for_all(gang: Gang, on_wait: Callable[[], None]) -> None:
    """Waits until every rank has called this function, without a limit of time.

    A rank that never comes is found by its own heartbeat, and a rank that dies ends the wait of the others.

    Args:
        gang: of this rank.
        on_wait: is called several times a second during the wait, for the heartbeat of this rank.

    Raises:
        RuntimeError: the connection to another rank broke.
    """
    work = dist.barrier(gang.waiting, async_op=True)
    while not work.is_completed():
        on_wait()
        time.sleep(_LOOK_SECONDS)
    work.wait()


def summed(gang: Gang, values: Sequence[float]) -> list[float]:
    """The sums of a few numbers over all ranks; every rank must call it at the same point."""
    total = torch.tensor(values, dtype=torch.float64, device=gang.device)
    dist.all_reduce(total)
    return [float(value) for value in total]


def largest(gang: Gang, value: float) -> float:
    """The largest of one number over all ranks."""
    total = torch.tensor(value, dtype=torch.float64, device=gang.device)
    dist.all_reduce(total, op=dist.ReduceOp.MAX)
    return float(total)


def gathered(gang: Gang, mine: Any) -> list[Any]:
    """A small object of every rank, in rank order, on every rank. Pickled: only within one run."""
    collected: list[Any] = [None] * gang.world
    dist.all_gather_object(collected, mine)
    return collected


def from_first(gang: Gang, value: Any) -> Any:
    """Rank 0's small object, on every rank."""
    carried = [value if gang.first else None]
    dist.broadcast_object_list(carried, src=0, device=gang.device)
    return carried[0]


def gathered_rows(
    gang: Gang, values: npt.NDArray[Number], numbers: npt.NDArray[np.int64], total: int
) -> npt.NDArray[Number]:
    """Rows that the ranks computed, put back in order, on every rank.

    Args:
        gang: the processes.
        values: this rank's rows, float32 or float64, shape [mine, width].
        numbers: which rows they are, shape [mine].
        total: rows of all ranks together, each of which must occur exactly once.

    Returns:
        Shape [total, width].
    """
    most = int(largest(gang, len(values)))
    width = values.shape[1]
    sent = torch.zeros(most, width + 1, dtype=torch.float64)
    # Row numbers travel as float64, which is exact below 2**53; -1 marks padding that is dropped again.
    sent[:, -1] = -1
    sent[: len(values), :-1] = torch.from_numpy(values.astype(np.float64))
    sent[: len(values), -1] = torch.from_numpy(numbers.astype(np.float64))
    sent = sent.to(gang.device)
    received = [torch.empty_like(sent) for _ in range(gang.world)]
    dist.all_gather(received, sent)
    everything = torch.cat(received).cpu().numpy()
    everything = everything[everything[:, -1] >= 0]
    order = everything[:, -1].astype(np.int64)
    if len(order) != total or not np.array_equal(np.sort(order), np.arange(total)):
        raise AssertionError(f"{len(order)} rows came back where {total} were sent out")
    result = np.empty((total, width), dtype=values.dtype)
    result[order] = everything[:, :-1]
    return result


def peers_of(gang: Gang) -> Peers:
    """The processes of a gang, for a fit that they share."""

    def total(value: torch.Tensor) -> torch.Tensor:
        everyones = value.clone()
        dist.all_reduce(everyones)
        return everyones

    def from_zero(value: torch.Tensor) -> torch.Tensor:
        theirs = value.detach().clone()
        dist.broadcast(theirs, src=0)
        return theirs

    return Peers(gang.rank, gang.world, gang.device, summed=total, from_first=from_zero)


def leave_together(gang: Gang, heartbeat: Heartbeat) -> None:
    """Ends every rank if any of them was asked to leave; a collective decision.

    Raises:
        StageFailure: Preempted, on all ranks.
    """
    if summed(gang, [float(heartbeat.leave_requested)])[0]:
        raise preempted()


def preempted(step: int | None = None) -> StageFailure:
    """What a rank ends with that was asked to leave."""
    where = "" if step is None else f" at step {step}"
    return StageFailure(
        FailureClass.PREEMPTED, "Preempted", f"asked to leave{where}; a new attempt starts the stage again"
    )
