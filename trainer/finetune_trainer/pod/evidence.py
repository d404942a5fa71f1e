"""Uploads the diagnostic files of a failed pod to S3: end of the log, errors, stacks, rank files.

Usage: `python -m finetune_trainer.pod.evidence --root DIR`. The supervisor starts this program as a separate
process with a time limit, so that a store that does not answer cannot block the end of the pod.
"""

import argparse
import sys
from pathlib import Path

from finetune_trainer.config import TrainConfig
from finetune_trainer.paths import Paths
from finetune_trainer.pod import console
from finetune_trainer.s3 import results
from finetune_trainer.s3.store import open_store

LOG_TAIL = "log-tail.txt"


def keep(config: TrainConfig, paths: Paths) -> None:
    """Uploads the diagnostic files to the folder `evidence/` beside the result of the attempt.

    Args:
        config: the configuration of the trainer.
        paths: the folders of the pod.

    Raises:
        StageFailure: the store fails or refuses a request.
    """
    folder = f"{config.run.runs}attempts/{config.stage.lower()}-{config.attempt}-{results.writer()}/evidence/"
    store = open_store(config.run.stores.output, "output", paths)
    for file in evidence(paths):
        store.write(f"{folder}{file.relative_to(paths.scratch)}", file.read_bytes())


def evidence(paths: Paths) -> list[Path]:
    """The diagnostic files of the pod that exist and are not empty, sorted by path."""
    files = [paths.scratch / LOG_TAIL, paths.agent, *paths.ranks.glob("*.json")]
    files += [*paths.stacks.glob("*"), *paths.errors.glob("*")]
    return sorted(file for file in files if file.is_file() and file.stat().st_size)


if __name__ == "__main__":
    console.set_up(sys.stderr, "evidence")
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    here = Paths(parser.parse_args().root)
    keep(TrainConfig.read(here.config), here)
