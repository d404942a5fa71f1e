"""The sign of life of a rank: its rank file, and on global rank 0 the progress document."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Activity, Model, Progress, RankFile
from finetune_trainer.paths import Paths

WRITES_SECONDS = 0.25
"""Least time between two writes of an unchanged activity, so that a beat costs microseconds at every step."""
_OWN = {"contract_version", "stage", "attempt", "activity", "heartbeat"}
_FIELDS = set(Progress.model_fields) - _OWN


class FileHeartbeat:
    """Writes what a rank does to files that its supervisor reads; any thread may call it.

    Args:
        config: the trainer's input.
        paths: where the files go; nothing is written before the first beat.
        rank: global rank; 0 also writes the progress document.
    """

    def __init__(self, config: TrainConfig, paths: Paths, rank: int) -> None:
        self._file = paths.ranks / f"{rank}.json"
        self._progress_file = paths.progress if rank == 0 else None
        self._usual_quiet = float(config.hang_timeout_seconds)
        self._state = RankFile(pid=os.getpid(), heartbeat=time.time(), quiet_seconds=self._usual_quiet)
        self._progress = Progress(stage=config.stage, attempt=config.attempt)
        self._fields: dict[str, object] = {}
        self._written = 0.0
        self._lock = threading.RLock()
        self._leave_requested = False
        self.held = False
        """Set by `hold`."""
        paths.ranks.mkdir(parents=True, exist_ok=True)

    @property
    def leave_requested(self) -> bool:
        """Whether this rank was asked (SIGUSR1) to end after its current step."""
        return self._leave_requested

    @property
    def activity(self) -> Activity:
        """What this rank said last."""
        return self._state.activity

    def request_leave(self) -> None:
        """Notes that the rank should leave; safe in a signal handler."""
        self._leave_requested = True

    def hold(self) -> None:
        """The work is done and is being made durable: nothing may interrupt it any more."""
        self.held = True

    def beat(self, activity: Activity, *, quiet_seconds: float | None = None, **progress: object) -> None:
        """Says what is being done now and how far it is; see `heartbeat.Heartbeat`.

        Raises:
            TypeError: a field that contract.Progress does not have.
        """
        if unknown := progress.keys() - _FIELDS:
            raise TypeError(f"no such field of the progress document: {', '.join(sorted(unknown))}")
        quiet = self._usual_quiet if quiet_seconds is None else quiet_seconds
        with self._lock:
            self._fields.update(progress)
            changed = activity is not self._state.activity or quiet != self._state.quiet_seconds
            now = time.time()
            if changed:
                self._state = self._state.model_copy(update={"activity": activity, "quiet_seconds": quiet})
            if changed or not 0 <= now - self._written < WRITES_SECONDS:
                self._write(now)

    def end(self, **outcome: Any) -> None:
        """Writes the outcome: fields of contract.RankFile. The first one stays."""
        with self._lock:
            if self._state.ended is not None:
                return
            self._write(time.time())
            update = {key: value for key, value in outcome.items() if value is not None}
            self._state = self._state.model_copy(update={"ended": time.time(), **update})
            _replace(self._file, self._state)

    def _write(self, now: float) -> None:
        self._written = now
        reached: dict[str, Any] = {key: self._fields[key] for key in ("step", "epoch") if key in self._fields}
        self._state = self._state.model_copy(update={"heartbeat": now, **reached})
        _replace(self._file, self._state)
        if self._progress_file:
            self._progress = _merged(self._progress, self._fields, self._state)
            _replace(self._progress_file, self._progress)
        self._fields.clear()


def _merged(progress: Progress, fields: dict[str, object], state: RankFile) -> Progress:
    """The document with new fields; one that is out of bounds (a loss of NaN) becomes unknown."""
    update = {**dict(progress), **fields, "activity": state.activity, "heartbeat": state.heartbeat}
    try:
        return Progress.model_validate(update)
    except ValidationError as error:
        bad = {str(problem["loc"][0]) for problem in error.errors()}
        return Progress.model_validate({key: value for key, value in update.items() if key not in bad})


def _replace(file: Path, document: Model) -> None:
    """Readers see the old content or the new, never a part."""
    unfinished = file.with_suffix(".part")
    unfinished.write_text(document.model_dump_json(by_alias=True, exclude_none=True))
    unfinished.replace(file)
