"""The index of the failures in status.attempts that point to a node, over all FineTuneJobs of the cache."""

from dataclasses import dataclass, field

from pydantic import ValidationError

from finetune_operator.api import AttemptStatus
from finetune_operator.objects import Manifest
from finetune_operator.planning import sick_nodes
from finetune_operator.planning.types import NodeFailure


@dataclass
class NodeFailures:
    """The failures of each job. An event about a job updates only the failures of that job."""

    _by_run: dict[str, tuple[NodeFailure, ...]] = field(default_factory=dict)
    """Only jobs with failures."""
    _changes: int = 0
    _joined: tuple[int, tuple[NodeFailure, ...]] = (0, ())
    """The failures of all jobs after so many changes."""

    def all(self) -> tuple[NodeFailure, ...]:
        """The failures of all jobs. A scrape calls this function in another thread."""
        changes, joined = self._changes, self._joined
        if joined[0] != changes:
            found = tuple(f for failures in list(self._by_run.values()) for f in failures)
            joined = self._joined = changes, found
        return joined[1]

    def put(self, job: Manifest) -> None:
        """Records a FineTuneJob that appeared or changed."""
        self._store(job["metadata"]["uid"], _failures_of(job))

    def remove(self, job: Manifest) -> None:
        """Records that a FineTuneJob is deleted: its failures no longer count."""
        self._store(job["metadata"]["uid"], ())

    def _store(self, run: str, found: tuple[NodeFailure, ...]) -> None:
        if found == self._by_run.get(run, ()):
            return
        if found:
            self._by_run[run] = found
        else:
            del self._by_run[run]
        self._changes += 1


def _failures_of(job: Manifest) -> tuple[NodeFailure, ...]:
    """The failures of a FineTuneJob, whose status may be invalid. The API server has validated the spec."""
    meta, status = job["metadata"], job.get("status")
    attempts = status.get("attempts") if isinstance(status, dict) else None
    failed = [a for a in attempts or () if isinstance(a, dict) and a.get("outcome") == "Failed"]
    try:
        read = [AttemptStatus.model_validate(attempt) for attempt in failed if attempt.get("node")]
    except ValidationError:
        return ()
    nodes = ((job.get("spec") or {}).get("resources") or {}).get("nodes", 1)
    return tuple(sick_nodes.failures_of(meta["uid"], meta["namespace"], nodes, read))
