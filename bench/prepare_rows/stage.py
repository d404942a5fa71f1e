"""`python -m bench.prepare_rows.stage ROOT DATA_BYTES`: the real Prepare stage, in a process of its own.

Prints the seconds of each pass, the CPU time, the longest time between two heartbeats, and the rows.
DATA_BYTES limits the memory that the process may write to (RLIMIT_DATA): a stage that needs more ends with a
MemoryError.
"""

import json
import resource
import sys
import time
from pathlib import Path

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Activity
from finetune_trainer.paths import Paths
from finetune_trainer.stages import prepare

_PASSES = (Activity.CHECKING_DATA, Activity.TOKENISING, Activity.UPLOADING, Activity.DONE)


class Watch:
    """Records the time of each heartbeat of the stage."""

    leave_requested = False

    def __init__(self) -> None:
        """Nothing noted yet."""
        self.last: float | None = None
        self.longest = 0.0
        self.began: dict[str, float] = {}

    def beat(self, activity: Activity, **_progress: object) -> None:
        """Measures the silence since the last sign, in the passes over the rows."""
        now = time.monotonic()
        self.began.setdefault(activity, now)
        if activity in _PASSES:
            if self.last is not None:
                self.longest = max(self.longest, now - self.last)
            self.last = now


def main() -> None:
    """Runs the stage."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]), int(sys.argv[2])))
    paths, watch = Paths(Path(sys.argv[1])), Watch()
    result = prepare.run(TrainConfig.read(paths.config), paths, watch)
    assert result.payload is not None  # noqa: S101 - for mypy
    moments = [watch.began[activity] for activity in _PASSES]
    print(
        json.dumps(
            {
                "silence": watch.longest,
                "cpu": _cpu_seconds(),
                "read": moments[1] - moments[0],
                "tokenised": moments[2] - moments[1],
                "stored": moments[3] - moments[2],
                "rows": result.payload.model_dump(mode="json")["rows"],
            }
        )
    )


def _cpu_seconds() -> float:
    """CPU time of this process and of the processes that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main()
