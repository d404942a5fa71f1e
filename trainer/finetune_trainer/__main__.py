"""Entry point of the trainer image: `python -m finetune_trainer [--root DIR] [--port N]`."""

import argparse
import sys
from pathlib import Path

from finetune_trainer.contract import PROGRESS_PORT
from finetune_trainer.places import Places
from finetune_trainer.pod.supervisor import main

parser = argparse.ArgumentParser(
    prog="finetune_trainer",
    description="Runs one stage of a fine-tuning job (Prepare, Train, Publish, Report or Sweep) as told by "
    "ROOT/etc/finetune/config.json, serves its progress, and leaves a termination message.",
    epilog="Exit codes: 0 success, 2 configuration, 3 data, 4 memory, 5 storage, 6 numerics, "
    "7 communication, 8 told to leave, 9 hang, 10 internal.",
)
parser.add_argument("--root", type=Path, default=Path("/"), help="where all files lie (default: /)")
parser.add_argument(
    "--port",
    type=int,
    default=PROGRESS_PORT,
    help=f"for /progress, /metrics, /healthz; 0 is any free one (default: {PROGRESS_PORT})",
)
given = parser.parse_args()
sys.exit(main(Places(given.root.absolute()), given.port))
