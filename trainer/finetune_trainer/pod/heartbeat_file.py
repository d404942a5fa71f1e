"""The heartbeat of a rank: writes the rank file, and on global rank 0 the progress document."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import USES, Activity, Model, Progress, RankFile, SecondsByUse, Stage
from finetune_trainer.paths import Paths

WRITES_SECONDS = 0.25
"""Minimum time in seconds between two writes of the same activity, so that most calls write no file."""
_OWN = {"contract_version", "stage", "attempt", "activity", "seconds", "heartbeat"}
_IN_RANK_FILE = {"step", "epoch", "checkpoint", "resumed_from_step"}
"""Fields that the rank file has, too; `checkpoint` is in no progress document."""
_FIELDS = set(Progress.model_fields) - _OWN | {"checkpoint"}


class FileHeartbeat:
    """Writes the state of a rank to files that the supervisor reads. Every method is thread-safe.

    Args:
        config: the configuration of the trainer.
        paths: the folders of the pod; the first call of `beat` writes the first file.
        rank: global rank; rank 0 also writes the progress document.
    """

    def __init__(self, config: TrainConfig, paths: Paths, rank: int) -> None:
        self._file = paths.ranks / f"{rank}.json"
        self._progress_file = paths.progress if rank == 0 else None
        self._usual_quiet = float(config.hang_timeout_seconds)
        self._state = RankFile(pid=os.getpid(), heartbeat=time.time(), quiet_seconds=self._usual_quiet)
        self._progress = Progress(stage=config.stage, attempt=config.attempt)
        self._fields: dict[str, object] = {}
        self._spent = dict.fromkeys(SecondsByUse.model_fields, 0.0) if config.stage is Stage.TRAIN else None
        """Seconds by use; None in a stage other than Train."""
        self._spent_until = time.monotonic()
        self._written = 0.0
        self._lock = threading.RLock()
        self._leave_requested = False
        self.held = False
        """Whether `hold` has been called."""
        paths.ranks.mkdir(parents=True, exist_ok=True)

    @property
    def leave_requested(self) -> bool:
        """Whether this rank has received SIGUSR1, the request to end after the current step."""
        return self._leave_requested

    @property
    def activity(self) -> Activity:
        """The latest activity that this rank reported."""
        return self._state.activity

    def request_leave(self) -> None:
        """Sets `leave_requested`; safe in a signal handler."""
        self._leave_requested = True

    def hold(self) -> None:
        """Marks the work of the stage as done: from now on SIGUSR1 does not interrupt the rank."""
        self.held = True

    def beat(self, activity: Activity, *, quiet_seconds: float | None = None, **progress: object) -> None:
        """Records a heartbeat, the activity and the progress; see `heartbeat.Heartbeat`.

        Raises:
            TypeError: `progress` has a name that is no field of contract.Progress.
        """
        if unknown := progress.keys() - _FIELDS:
            raise TypeError(f"the progress document has no field {', '.join(sorted(unknown))}")
        quiet = self._usual_quiet if quiet_seconds is None else quiet_seconds
        with self._lock:
            self._fields.update(progress)
            self._count_time()
            changed = activity is not self._state.activity or quiet != self._state.quiet_seconds
            now = time.time()
            if changed:
                self._state = self._state.model_copy(update={"activity": activity, "quiet_seconds": quiet})
            if changed or not 0 <= now - self._written < WRITES_SECONDS:
                self._write(now)

    def end(self, **outcome: Any) -> None:
        """Writes the outcome of the rank to the rank file. Further calls have no effect.

        Args:
            outcome: fields of contract.RankFile by their Python names; None leaves a field unset.
        """
        with self._lock:
            if self._state.ended is not None:
                return
            self._count_time()
            self._write(time.time())
            update = {key: value for key, value in outcome.items() if value is not None}
            self._state = self._state.model_copy(update={"ended": time.time(), **update})
            _replace(self._file, self._state)

    def _count_time(self) -> None:
        """Adds the time since the last call to the use of the activity until now."""
        now = time.monotonic()
        use = USES.get(self._state.activity)
        if self._spent and use:
            self._spent[use] += now - self._spent_until
        self._spent_until = now

    def _write(self, now: float) -> None:
        self._written = now
        reached: dict[str, Any] = {key: self._fields[key] for key in _IN_RANK_FILE & self._fields.keys()}
        if self._spent:
            reached["seconds"] = SecondsByUse(**{use: int(spent) for use, spent in self._spent.items()})
        self._state = self._state.model_copy(update={"heartbeat": now, **reached})
        _replace(self._file, self._state)
        if self._progress_file:
            fields = {key: value for key, value in self._fields.items() if key != "checkpoint"}
            self._progress = _merged(self._progress, fields, self._state)
            _replace(self._progress_file, self._progress)
        self._fields.clear()


def _merged(progress: Progress, fields: dict[str, object], state: RankFile) -> Progress:
    """The progress document with new fields; a value out of bounds, such as a NaN loss, becomes unknown."""
    own = {"activity": state.activity, "seconds": state.seconds, "heartbeat": state.heartbeat}
    update = {**dict(progress), **fields, **own}
    try:
        return Progress.model_validate(update)
    except ValidationError as error:
        bad = {str(problem["loc"][0]) for problem in error.errors()}
        return Progress.model_validate({key: value for key, value in update.items() if key not in bad})


def _replace(file: Path, document: Model) -> None:
    """Replaces a file atomically, so that a reader never sees a partial document."""
    unfinished = file.with_suffix(".part")
    unfinished.write_text(document.model_dump_json(by_alias=True, exclude_none=True))
    unfinished.replace(file)
