"""Run by torchrun on three ranks: compares the ranks, of which the last multiplies larger matrices.

Argument: file for the slowest rank and its ratio, as each rank knows them.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from finetune_trainer.pod.rank import leave
from finetune_trainer.training import rank_speed
from finetune_trainer.training.distributed import gather_objects, join_gang


def main() -> None:
    """Compares the ranks once."""
    gang = join_gang(gpus=False, startup_seconds=120, hang_seconds=120)
    if gang.rank == 2:
        rank_speed._CPU = replace(rank_speed._CPU, side=2048)
    speed = rank_speed.measure(gang, torch.float32)
    assert speed
    assert speed.all_reduce_bytes_per_second > 0
    found = gather_objects(gang, (speed.slowest_rank, speed.slowest_rank_ratio))
    if gang.first:
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    leave(0)
