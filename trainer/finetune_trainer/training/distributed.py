"""The process group of a gang: rendezvous, collective operations, and preemption."""

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
"""Seconds between two checks whether all ranks have arrived."""
Number = TypeVar("Number", bound=np.floating[Any])


@dataclass(frozen=True)
class Gang:
    """The position of this process in the process group."""

    rank: int
    """Global rank, from 0."""
    local_rank: int
    """Rank among the processes of this pod, from 0."""
    world: int
    """World size: the number of processes of the gang."""
    device: torch.device
    """The device of this process."""
    waiting: dist.ProcessGroup | None = None
    """Process group for `wait_for_all`: gloo, without a time-out; None for the default process group."""

    @property
    def first(self) -> bool:
        """Whether this is global rank 0, which writes all results."""
        return self.rank == 0


def join_gang(*, gpus: bool, startup_seconds: float, hang_seconds: float) -> Gang:
    """Joins the process group of the environment of torchrun, with NCCL on GPUs and gloo on CPUs.

    The function uses the initialisation of DeepSpeed, and must run before TrainingArguments are created:
    otherwise DeepSpeed assumes a world size of 1 for ZeRO-3 on CPUs.

    Args:
        gpus: whether the job uses GPUs.
        startup_seconds: time limit in seconds until all ranks have joined.
        hang_seconds: time limit in seconds of each later collective operation.

    Returns:
        The position of this process.

    Raises:
        StageFailure: class Communication (RendezvousFailed) if a rank does not join; class UserConfig
            (GpuMissing) if this process has no GPU.
    """
    # DeepSpeed selects a device at its import. The job decides about the device, not the node.
    os.environ["DS_ACCELERATOR"] = "cuda" if gpus else "cpu"
    import deepspeed  # noqa: PLC0415

    local_rank = int(os.environ["LOCAL_RANK"])
    if gpus:
        if torch.cuda.device_count() <= local_rank:
            raise StageFailure(
                FailureClass.USER_CONFIG,
                "GpuMissing",
                f"process {local_rank} of this pod has no GPU; the pod has {torch.cuda.device_count()} GPUs",
                "compare resources.gpusPerNode with the GPUs of the nodes",
            )
        torch.cuda.set_device(local_rank)
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if gpus else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=startup_seconds),
        )
        # The initialisation is lazy: only the first collective operation shows that all ranks have joined.
        dist.barrier()
        waiting = dist.new_group(backend="gloo", timeout=timedelta(seconds=startup_seconds))
    except (RuntimeError, ValueError) as error:
        raise StageFailure(
            FailureClass.COMMUNICATION,
            "RendezvousFailed",
            f"not all ranks joined within {startup_seconds:.0f} s: {error}"[:1000],
            "look for pods of this attempt that did not start or have failed",
        ) from error
    for timeout, group in ((timedelta(seconds=hang_seconds), None), (_NO_TIMEOUT, waiting)):
        dist.distributed_c10d._set_pg_timeout(timeout, group)  # noqa: SLF001 - not public
    device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
    return Gang(dist.get_rank(), local_rank, dist.get_world_size(), device, waiting)


def message_board(topic: str) -> Any:
    """The torch.distributed.Store of the process group, over a connection of its own for a thread.

    Args:
        topic: separates the keys from those of other users of the store.
    """
    group: Any = dist.distributed_c10d
    return group.PrefixStore(topic, group._get_default_store().clone())  # noqa: SLF001 - not public


def wait_for_all(gang: Gang, on_wait: Callable[[], None]) -> None:
    """Waits without a time limit until every rank has called this function.

    A missing rank that hangs is detected by its own heartbeat, and the death of a rank ends the wait.

    Args:
        gang: the process group.
        on_wait: called several times a second during the wait, for the heartbeat of this rank.

    Raises:
        RuntimeError: the connection to another rank broke.
    """
    work = dist.barrier(gang.waiting, async_op=True)
    while not work.is_completed():
        on_wait()
        time.sleep(_LOOK_SECONDS)
    work.wait()


def sum_over_ranks(gang: Gang, values: Sequence[float]) -> list[float]:
    """Sums numbers over all ranks, as float64. A collective operation.

    Args:
        gang: the process group.
        values: numbers of this rank; every rank must pass as many numbers.

    Returns:
        The sums, on every rank.
    """
    total = torch.tensor(values, dtype=torch.float64, device=gang.device)
    dist.all_reduce(total)
    return [float(value) for value in total]


def max_over_ranks(gang: Gang, value: float) -> float:
    """The maximum of a number over all ranks, on every rank. A collective operation."""
    total = torch.tensor(value, dtype=torch.float64, device=gang.device)
    dist.all_reduce(total, op=dist.ReduceOp.MAX)
    return float(total)


def gather_objects(gang: Gang, mine: Any) -> list[Any]:
    """Collects an object of every rank. A collective operation.

    The objects travel as pickles, which is safe only between the processes of one run.

    Args:
        gang: the process group.
        mine: a small object of this rank.

    Returns:
        The objects in the order of ranks, on every rank.
    """
    collected: list[Any] = [None] * gang.world
    dist.all_gather_object(collected, mine)
    return collected


def broadcast_object(gang: Gang, value: Any) -> Any:
    """Broadcasts an object of rank 0, as a pickle. A collective operation.

    Args:
        gang: the process group.
        value: a small object; ignored on all ranks except rank 0.

    Returns:
        The object of rank 0, on every rank.
    """
    holder = [value if gang.first else None]
    dist.broadcast_object_list(holder, src=0, device=gang.device)
    return holder[0]


def gather_rows(
    gang: Gang, values: npt.NDArray[Number], numbers: npt.NDArray[np.int64], total: int
) -> npt.NDArray[Number]:
    """Collects rows of all ranks in the order of their row numbers. A collective operation.

    Args:
        gang: the process group.
        values: rows of this rank, float32 or float64, shape [rows of this rank, width].
        numbers: row numbers of `values`, shape [rows of this rank].
        total: number of rows of all ranks; each row number from 0 must occur exactly once.

    Returns:
        All rows, shape [total, width], on every rank.

    Raises:
        AssertionError: a row number is missing or occurs twice.
    """
    most = int(max_over_ranks(gang, len(values)))
    width = values.shape[1]
    sent = torch.zeros(most, width + 1, dtype=torch.float64)
    # The row numbers are float64, which is exact below 2**53. The number -1 marks padding.
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
        raise AssertionError(f"the ranks returned {len(order)} rows with other numbers than 0 to {total - 1}")
    result = np.empty((total, width), dtype=values.dtype)
    result[order] = everything[:, :-1]
    return result


def peers_of_gang(gang: Gang) -> Peers:
    """The processes of a gang, for a fit that they share."""

    def total(value: torch.Tensor) -> torch.Tensor:
        everyones = value.clone()
        dist.all_reduce(everyones)
        return everyones

    def from_zero(value: torch.Tensor) -> torch.Tensor:
        theirs = value.detach().clone()
        dist.broadcast(theirs, src=0)
        return theirs

    return Peers(gang.rank, gang.world, gang.device, all_reduce=total, broadcast=from_zero)


def end_if_requested(gang: Gang, heartbeat: Heartbeat) -> None:
    """Ends all ranks if any rank has received the request to end (SIGUSR1). A collective operation.

    Args:
        gang: the process group.
        heartbeat: the heartbeat of this rank.

    Raises:
        StageFailure: class Preempted, on all ranks.
    """
    if sum_over_ranks(gang, [float(heartbeat.leave_requested)])[0]:
        raise preempted_failure()


def preempted_failure(step: int | None = None, *, saved: bool = False) -> StageFailure:
    """The failure of a rank that has received the request to end.

    Args:
        step: the last optimizer step; None before or after training.
        saved: whether a checkpoint of this step is complete.
    """
    where = "" if step is None else f" at step {step}"
    then = "resumes at this step" if saved else "resumes from the newest checkpoint, if there is one"
    return StageFailure(FailureClass.PREEMPTED, "Preempted", f"ended on request{where}; a new attempt {then}")
