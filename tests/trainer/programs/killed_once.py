"""A pod whose rank is killed once, after a checkpoint is complete: killed_once.py supervise ROOT.

The supervisor starts this program as its rank: killed_once.py --root ROOT. In the first round, the rank kills
itself at the first step after STEP at which the store has a complete checkpoint.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from finetune_trainer.checkpoints.documents import MANIFEST
from finetune_trainer.checkpoints.listing import all_checkpoints
from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import ROUND_VARIABLE, Activity
from finetune_trainer.paths import Paths
from finetune_trainer.pod import rank, supervisor
from finetune_trainer.pod.heartbeat_file import FileHeartbeat
from finetune_trainer.s3.store import open_store
from tests.trainer.checkpoints.written import until

STEP = 15


class Killed(FileHeartbeat):
    """A heartbeat that kills the rank."""

    def beat(self, activity: Activity, *, quiet_seconds: float | None = None, **progress: Any) -> None:
        """Records a heartbeat; see FileHeartbeat."""
        super().beat(activity, quiet_seconds=quiet_seconds, **progress)
        if progress.get("step") == STEP:
            config = TrainConfig.read(HERE.config)
            store = open_store(config.run.stores.output, "output", HERE)
            folder = all_checkpoints(config.run.runs)
            until(lambda: any(entry.uri.endswith(MANIFEST) for entry in store.list(folder)))
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    HERE = Paths(Path(sys.argv[2]))
    if sys.argv[1] == "supervise":
        # On a busy machine, the import of the S3 client alone may take 10 s.
        supervisor.EVIDENCE_SECONDS = 120.0
        sys.exit(supervisor.main(HERE, 0, (__file__,)))
    if ROUND_VARIABLE not in os.environ:
        rank.FileHeartbeat = Killed  # type: ignore[attr-defined]
    rank.leave(rank.main(HERE))
