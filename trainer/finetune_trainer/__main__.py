"""Entry point of the trainer image: `python -m finetune_trainer [--root DIR] [--port N]`."""

import argparse
import os
import signal
import sys
from pathlib import Path

# As PID 1 a signal without a handler is lost, and the kubelet would wait for the whole grace period, so the
# image starts this with SIGTERM blocked. Until the supervisor handles it there is nothing to save: leave at
# once with exit code 8, Preempted.
signal.signal(signal.SIGTERM, lambda *_: os._exit(8))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

from finetune_trainer.contract import PROGRESS_PORT  # noqa: E402 - these imports take long enough to be told to leave
from finetune_trainer.paths import Paths  # noqa: E402
from finetune_trainer.pod.supervisor import main  # noqa: E402

parser = argparse.ArgumentParser(
    prog="finetune_trainer",
    description="Runs one stage of a fine-tuning job (Prepare, Train, Publish, Readback or Cleanup) as told "
    "by ROOT/etc/finetune/config.json, serves its progress, and leaves a termination message.",
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
sys.exit(main(Paths(given.root.absolute()), given.port))
