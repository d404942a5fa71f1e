"""Brings what a failed pod leaves behind to S3: log tail, errors, stacks, rank files. A process of its own.

Called as `python -m finetune_trainer.pod.evidence --root DIR`; the supervisor gives it a few seconds.
"""

import argparse
import sys
from pathlib import Path

from finetune_trainer.config import TrainConfig
from finetune_trainer.paths import Places
from finetune_trainer.pod import console
from finetune_trainer.s3 import results
from finetune_trainer.s3.store import open_store

LOG_TAIL = "log-tail.txt"


def keep(config: TrainConfig, places: Places) -> None:
    """Uploads every file of evidence to the folder `evidence/` beside the result of the attempt.

    Raises:
        StageFailure: the store does not take it.
    """
    folder = f"{config.run.runs}attempts/{config.stage.lower()}-{config.attempt}-{results.writer()}/evidence/"
    store = open_store(config.run.stores.output, "output", places)
    for file in evidence(places):
        store.write(f"{folder}{file.relative_to(places.scratch)}", file.read_bytes())


def evidence(places: Places) -> list[Path]:
    """The files worth keeping."""
    files = [places.scratch / LOG_TAIL, places.agent, *places.ranks.glob("*.json")]
    files += [*places.stacks.glob("*"), *places.errors.glob("*")]
    return sorted(file for file in files if file.is_file() and file.stat().st_size)


if __name__ == "__main__":
    console.set_up(sys.stderr, "evidence")
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    here = Places(parser.parse_args().root)
    keep(TrainConfig.read(here.config), here)
