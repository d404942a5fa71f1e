"""Three ranks without torchrun: each writes what the gang told it, and how each disagreement ended.

Others do not meet: they wait for one that never comes, have no GPU, or lose their only peer.

Arguments: folder for the outcomes.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deepspeed  # noqa: F401 - once, before the processes part that need it
import numpy as np
import torch
import torch.distributed as dist

from finetune_trainer.checkpoints.files import Part
from finetune_trainer.failures import StageFailure
from finetune_trainer.training import best_weights
from finetune_trainer.training import distributed as together
from finetune_trainer.training.distributed import Gang, join_gang

WORLD = 3
SHARES: dict[str, list[list[int]]] = {
    "uneven": [[6, 0, 3], [], [5, 1, 4, 2]],
    "all with one": [[], [], [2, 1, 0]],
    "one lost": [[0], [1], [3]],
    "one twice": [[0, 1], [1], [2]],
    "one for another": [[0], [0], [2]],
    "one short": [[0], [2], []],
}
"""Which rows each rank holds."""
PATIENCE = 3.0
"""Seconds that those wait who wait in vain."""


def rows(numbers: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows of two values that follow from their number; odd ones hold what only a float32 can."""
    values = [[number + 0.1, np.inf if number % 2 else -number / 3] for number in numbers]
    return np.array(values, dtype=np.float32).reshape(-1, 2)


def ended(act: Callable[[], Any]) -> str:
    """How something ends."""
    try:
        act()
    except (AssertionError, StageFailure) as error:
        return f"{type(error).__name__}: {error}"
    return "well"


def outcomes(gang: Gang) -> dict[str, Any]:
    """Everything that is collective, one after the other."""
    found: dict[str, Any] = {
        "summed": together.sum_over_ranks(gang, [gang.rank, 0.5, 2.0**53]),
        "largest": together.max_over_ranks(gang, -1.0 - gang.rank),
        "gathered": together.gather_objects(gang, {"rank": gang.rank, "long": "x" * gang.rank}),
        "from first": together.broadcast_object(gang, None if gang.rank else ["of", 0]),
    }
    for name, shares in SHARES.items():
        mine = shares[gang.rank]
        numbers = np.array(mine, dtype=np.int64)
        total = 1 + max(max(share, default=0) for share in shares)

        def gather(mine: list[int] = mine, numbers: Any = numbers, total: int = total) -> None:
            back = together.gather_rows(gang, rows(mine), numbers, total)
            assert back.dtype == np.float32
            assert np.array_equal(back, rows(list(range(total))))

        found[name] = ended(gather)
    for asked in (None, 0, 2):
        heartbeat: Any = SimpleNamespace(leave_requested=gang.rank == asked)
        found[f"asked {asked}"] = ended(
            lambda heartbeat=heartbeat: together.end_if_requested(gang, heartbeat)
        )
    # Each rank has a weight of its own, and only the weight of the last rank is too large for float16.
    weight = Part("weight", f"weight {gang.rank}", 0, torch.full((2,), 35000.0 * gang.rank))
    found["rounded"] = ended(lambda: best_weights.check_rounding(gang, [weight], torch.float16))
    board = together.message_board("topic")
    board.set(f"told by {gang.rank}", "all")
    dist.barrier()
    found["told"] = board.check([f"told by {rank}" for rank in range(WORLD)])
    return found


def late(gang: Gang, folder: Path) -> dict[str, Any]:
    """What the others hear while the last rank comes later than a collective may last."""
    beats = folder / f"beats-{gang.rank}"
    if gang.rank == WORLD - 1:
        others = [folder / f"beats-{rank}" for rank in range(WORLD - 1)]
        until = time.monotonic() + 3 * PATIENCE
        while time.monotonic() < until or not all(file.exists() for file in others):
            time.sleep(0.01)
    heard: list[float] = []

    def on_wait() -> None:
        heard.append(time.monotonic())
        beats.touch()

    began = time.monotonic()
    together.wait_for_all(gang, on_wait)
    moments = [began, *heard, time.monotonic()]
    longest = max(after - before for before, after in pairwise(moments))
    together.sum_over_ranks(gang, [1.0])
    return {"seconds": moments[-1] - began, "beats": len(heard), "longest silence": longest}


def widowed(port: int) -> dict[str, Any]:
    """How the wait for a rank ends that dies."""
    other = os.fork()
    gang = joined(int(other != 0), 2, port)
    if not other:
        os._exit(0)
    return failed(lambda: together.wait_for_all(gang, lambda: None))


def joined(rank: int, world: int, port: int, **how: Any) -> Gang:
    """Meets by torchrun's environment, with two processes a pod."""
    here = {"RANK": rank, "LOCAL_RANK": rank % 2, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()}, MASTER_ADDR="127.0.0.1")
    return join_gang(**{"gpus": False, "startup_seconds": 120, "hang_seconds": 120, **how})


def failed(act: Callable[[], Any]) -> dict[str, Any]:
    """How something ends that does not end well, and when."""
    began = time.monotonic()
    try:
        act()
    except StageFailure as error:
        found = {"class": error.failure, "reason": error.reason, "message": error.message}
    except RuntimeError as error:
        found = {"reason": "RuntimeError", "message": str(error)}
    else:
        found = {"reason": "none"}
    return {**found, "seconds": time.monotonic() - began}


def left_alone(port: int) -> dict[str, Any]:
    """How a collective ends in which the only other rank takes no part, though it lives."""
    other = os.fork()
    joined(int(other != 0), 2, port, hang_seconds=PATIENCE)
    if other:
        os.waitpid(other, 0)
        return {}
    return failed(dist.barrier)


def forked(path: Path, act: Callable[[], dict[str, Any]]) -> int:
    """Does something in a process of its own, which writes what it finds."""
    if process := os.fork():
        return process
    if found := act():
        path.write_text(json.dumps(found))
    os._exit(0)


def main() -> None:
    """Forks before anything has threads; torch is imported once."""
    folder = Path(sys.argv[1])
    with ExitStack() as held:
        free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(6)]
        ports = [port.getsockname()[1] for port in free]

    def member(rank: int) -> dict[str, Any]:
        gang = joined(rank, WORLD, ports[0])
        torch.set_num_threads(1)
        stands = [gang.rank, gang.local_rank, gang.world, gang.device.type, dist.get_backend()]
        (folder / f"met-{rank}.json").write_text(json.dumps(stands))
        found = outcomes(gang)
        dist.barrier()
        return found

    def waiting(rank: int) -> dict[str, Any]:
        gang = joined(rank, WORLD, ports[4], hang_seconds=PATIENCE)
        found = late(gang, folder)
        dist.barrier()
        return found

    in_vain = {"startup_seconds": PATIENCE}
    acts: dict[str, Callable[[], dict[str, Any]]] = {
        **{str(rank): partial(member, rank) for rank in range(WORLD)},
        "no other": lambda: failed(partial(joined, 0, 2, ports[1], **in_vain)),
        "no first": lambda: failed(partial(joined, 1, 2, ports[2], **in_vain)),
        "no GPU": lambda: failed(partial(joined, 3, 4, ports[2], gpus=True)),
        "no answer": lambda: left_alone(ports[3]),
        **{f"late-{rank}": partial(waiting, rank) for rank in range(WORLD)},
        "dead": lambda: widowed(ports[5]),
    }
    processes = [forked(folder / f"{name}.json", act) for name, act in acts.items()]
    if bad := [status for process in processes if (status := os.waitpid(process, 0)[1])]:
        sys.exit(f"processes ended with {bad}")


if __name__ == "__main__":
    main()
