"""Entry point of the trainer image: `python -m finetune_trainer [--root DIR] [--port N]`."""

import argparse
import os
import signal
import sys
from pathlib import Path

# The kernel discards signals of PID 1 that have no handler, and the kubelet would then wait for the whole
# grace period. Therefore the image starts this program with SIGTERM blocked. Before the supervisor handles
# SIGTERM, no work has begun, so the program exits at once with exit code 8 (Preempted).
signal.signal(signal.SIGTERM, lambda *_: os._exit(8))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

if sys.argv[1:2] == ["plan"]:
    from finetune_trainer.stages.memory_plan import main as print_plan

    sys.exit(print_plan(sys.argv[2:]))

from finetune_trainer.contract import PROGRESS_PORT  # noqa: E402 - SIGTERM may come during these imports
from finetune_trainer.paths import Paths  # noqa: E402
from finetune_trainer.pod.supervisor import main  # noqa: E402

parser = argparse.ArgumentParser(
    prog="finetune_trainer",
    description="Runs one stage of a fine-tuning job (Prepare, Train, Publish, Readback or Cleanup). Reads "
    "the config from ROOT/etc/finetune/config.json, serves the progress, and writes a termination message.",
    epilog="Exit codes: 0 success, 2 configuration, 3 data, 4 memory, 5 storage, 6 numerics, "
    "7 communication, 8 preempted, 9 hang, 10 internal. `python -m finetune_trainer plan --help` explains"
    " the estimate of the memory of a job.",
)
parser.add_argument(
    "--root", type=Path, default=Path("/"), help="folder above all files of the trainer (default: /)"
)
parser.add_argument(
    "--port",
    type=int,
    default=PROGRESS_PORT,
    help=f"port of /progress, /metrics and /healthz; 0 selects a free port (default: {PROGRESS_PORT})",
)
arguments = parser.parse_args()
sys.exit(main(Paths(arguments.root.absolute()), arguments.port))
