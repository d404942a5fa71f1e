"""Three ranks without torchrun: each writes what the gang told it, and how each disagreement ended.

Arguments: folder for the outcomes.
"""

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from finetune_trainer.failures import StageFailure
from finetune_trainer.models import weights
from finetune_trainer.training import gang as together
from finetune_trainer.training.gang import Gang

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


def outcomes(gang: Gang, folder: Path) -> dict[str, Any]:
    """Everything that is collective, one after the other."""
    found: dict[str, Any] = {
        "summed": together.summed(gang, [gang.rank, 0.5, 2.0**53]),
        "largest": together.largest(gang, -1.0 - gang.rank),
        "gathered": together.gathered(gang, {"rank": gang.rank, "long": "x" * gang.rank}),
        "from first": together.from_first(gang, None if gang.rank else ["of", 0]),
    }
    for name, shares in SHARES.items():
        mine = shares[gang.rank]
        numbers = np.array(mine, dtype=np.int64)
        total = 1 + max(max(share, default=0) for share in shares)

        def gather(mine: list[int] = mine, numbers: Any = numbers, total: int = total) -> None:
            back = together.gathered_rows(gang, rows(mine), numbers, total)
            assert back.dtype == np.float32
            assert np.array_equal(back, rows(list(range(total))))

        found[name] = ended(gather)
    for asked in (None, 0, 2):
        pulse: Any = SimpleNamespace(leave_requested=gang.rank == asked)
        found[f"asked {asked}"] = ended(lambda pulse=pulse: together.leave_together(gang, pulse))
    torch.manual_seed(gang.rank)
    module = torch.nn.Linear(2, 2)
    weights.keep(gang, module, folder / f"only-first-{gang.rank}" / "weights.safetensors")
    # The file is on the disk of the first rank alone.
    weights.spread(gang, module, folder / f"only-first-{gang.rank}" / "weights.safetensors")
    found["weights"] = module.weight.tolist()
    return found


def main() -> None:
    """Forks before anything has threads; torch is imported once."""
    folder = Path(sys.argv[1])
    rank = next((rank for rank in range(1, WORLD) if os.fork() == 0), 0)
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    torch.set_num_threads(1)
    found = outcomes(Gang(rank, rank, WORLD, torch.device("cpu")), folder)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    if rank:
        os._exit(0)
    for _ in range(1, WORLD):
        _, status = os.wait()
        if status:
            sys.exit(f"a rank ended with {status}")


if __name__ == "__main__":
    main()
