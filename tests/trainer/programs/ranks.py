"""Runs one rank for each root folder, as a pod would; each writes its output to `log.txt` in its root.

Each rank is a fork of this process: what a rank imports is then imported once, without torch, as in Prepare.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path
from shutil import copyfile, rmtree

from finetune_trainer.data import tokenise
from finetune_trainer.paths import Paths
from finetune_trainer.pod import rank
from finetune_trainer.stages import (
    prepare,  # noqa: F401 - imported before the forks, for their speed
    trial,
)

SHARED = Path(tempfile.mkdtemp())
run_trial = trial._run_subprocess


def run_trial_once(folder: Path) -> str:
    """Shares the outcome of the trial of one model between the roots: a trial takes ten seconds."""
    files = (folder / trial._CONFIG, folder / trial._REQUEST)
    digest = hashlib.sha256(b"\n".join(file.read_bytes() for file in files)).hexdigest()
    shared, outcome = SHARED / digest, folder / trial._OUTCOME
    if shared.exists():
        copyfile(shared, outcome)
        return "ended before"
    ended = run_trial(folder)
    if outcome.exists():
        copyfile(outcome, shared)
    return ended


trial._run_subprocess = run_trial_once
tokenise.model_types("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
for root in map(Path, sys.argv[1:]):
    child = os.fork()
    if not child:
        log = os.open(root / "log.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        rank.leave(rank.main(Paths(root)))
    os.waitpid(child, 0)
rmtree(SHARED)
