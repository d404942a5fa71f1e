"""Compares the ranks of a gang: a matrix product on each rank, and an all-reduce over all ranks.

The step times of the ranks cannot tell a slow rank: all ranks wait for the slowest rank in the collective
operations of each step.
"""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from finetune_trainer.contract import SLOW_RANK_RATIO
from finetune_trainer.training.distributed import Gang, gather_objects

_ROUNDS = 3
"""Measurements after the first, which warms up; the fastest counts, because other work only slows a rank."""


@dataclass(frozen=True)
class _Sizes:
    """The work of a measurement on one kind of device."""

    side: int
    """Rows and columns of the square matrices."""
    products: int
    """Products of one measurement."""
    message: int
    """float32 elements of the all-reduce."""


_GPU = _Sizes(side=4096, products=20, message=2**24)
"""2.7 TFLOP and 64 MiB, with about 160 MiB of memory: milliseconds on a current GPU."""
_CPU = _Sizes(side=512, products=2, message=2**18)
"""0.5 GFLOP and 1 MiB."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GangSpeed:
    """The result of a measurement; the fields are fields of contract.Progress."""

    slowest_rank: int
    slowest_rank_ratio: float
    all_reduce_bytes_per_second: float


def measure(gang: Gang, dtype: torch.dtype) -> GangSpeed | None:
    """Measures all ranks. A collective operation, of less than a second.

    Args:
        gang: the process group.
        dtype: data type of the matrix products of the run.

    Returns:
        The speed of the gang; None where the gang has one rank.
    """
    if gang.world == 1:
        return None
    sizes = _GPU if gang.device.type == "cuda" else _CPU
    matrix = torch.ones(sizes.side, sizes.side, dtype=dtype, device=gang.device)
    out = torch.empty_like(matrix)

    def multiply() -> None:
        for _ in range(sizes.products):
            torch.mm(matrix, matrix, out=out)

    ranks: list[float] = gather_objects(gang, _fastest(gang, multiply))
    message = torch.zeros(sizes.message, device=gang.device)
    seconds = _fastest(gang, lambda: dist.all_reduce(message))
    rank, ratio = slowest(ranks)
    if ratio >= SLOW_RANK_RATIO and gang.first:
        log.warning("rank %d takes %.1f times as long as the median for a matrix product", rank, ratio)
    return GangSpeed(rank, ratio, bus_bandwidth(message.nbytes, gang.world, seconds))


def slowest(seconds: Sequence[float]) -> tuple[int, float]:
    """The rank that took longest, and its duration divided by the (lower) median of all ranks.

    Args:
        seconds: durations in the order of ranks.
    """
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    return rank, seconds[rank] / max(statistics.median_low(seconds), 1e-9)


def bus_bandwidth(size: int, world: int, seconds: float) -> float:
    """Bytes per second that each rank sends in a ring all-reduce: 2 (n - 1) / n x size / seconds.

    The formula is that of NCCL's tests (doc/PERFORMANCE.md, "bus bandwidth"), so that the value can be
    compared with the bandwidth of the network.

    Args:
        size: bytes of the tensor.
        world: number of ranks n.
        seconds: duration of the operation.
    """
    return 2 * (world - 1) / world * size / max(seconds, 1e-9)


def _fastest(gang: Gang, work: Callable[[], object]) -> float:
    """Seconds of the fastest of several rounds of `work`, in which all ranks start together."""
    durations = []
    for _ in range(1 + _ROUNDS):
        dist.barrier()
        _synchronize(gang)
        began = time.perf_counter()
        work()
        _synchronize(gang)
        durations.append(time.perf_counter() - began)
    return min(durations[1:])


def _synchronize(gang: Gang) -> None:
    if gang.device.type == "cuda":
        torch.cuda.synchronize(gang.device)
