"""The index of spec.model.fromJob: a change of a base job enqueues the runs that start from its model."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from finetune_operator.api import FineTuneJobStatus
from finetune_operator.names import Condition, State
from finetune_operator.objects import Manifest
from finetune_operator.planning.lookup import condition, is_condition_true
from finetune_operator.planning.types import BaseJob

Place = tuple[str, str]
"""Namespace and name of a FineTuneJob."""


@dataclass
class ModelDependencies:
    """The base jobs by namespace and name, and the runs that depend on each.

    `BaseJob` has no progress, so a job in training does not enqueue the runs that wait for its end.
    """

    enqueue: Callable[[str], None] = lambda _run: None
    """Called with each run whose base job appears, changes or is deleted."""
    _shown: dict[Place, BaseJob] = field(default_factory=dict)
    _bases: dict[str, Place] = field(default_factory=dict)
    """By run: namespace and name of its base job, which may not exist."""
    _dependents: dict[Place, set[str]] = field(default_factory=dict)
    """By base job: the runs that depend on the job."""

    def of(self, run: str) -> BaseJob | None:
        """The base job of a run; None: the run has no base job, or the base job does not exist."""
        place = self._bases.get(run)
        return self._shown.get(place) if place else None

    def put(self, job: Manifest) -> None:
        """Records a FineTuneJob that appeared or changed."""
        self._follow(job["metadata"]["uid"], _base_place(job))
        self._show(_place(job), base_job(job))

    def remove(self, job: Manifest) -> None:
        """Records that a FineTuneJob is deleted; another FineTuneJob may have its name by now."""
        self._follow(job["metadata"]["uid"], None)
        known = self._shown.get(_place(job))
        if known and known.uid == job["metadata"]["uid"]:
            self._show(_place(job), None)

    def _show(self, place: Place, shown: BaseJob | None) -> None:
        if shown == self._shown.get(place):
            return
        if shown:
            self._shown[place] = shown
        else:
            del self._shown[place]
        for run in self._dependents.get(place, ()):
            self.enqueue(run)

    def _follow(self, run: str, place: Place | None) -> None:
        before = self._bases.pop(run, None)
        if before:
            self._dependents[before].discard(run)
            if not self._dependents[before]:
                del self._dependents[before]
        if place:
            self._bases[run] = place
            self._dependents.setdefault(place, set()).add(run)


def base_job(job: Manifest) -> BaseJob:
    """The facts about a FineTuneJob that matter to the runs that depend on the job."""
    meta = job["metadata"]
    try:
        status = FineTuneJobStatus.model_validate(job.get("status") or {})
    except ValidationError:
        return BaseJob(meta["uid"], State.WAITING)  # the state that its own reconcile writes
    shown = BaseJob(meta["uid"], status.state or State.PENDING)
    if is_condition_true(status, Condition.SUCCEEDED) and status.model:
        return replace(shown, end="Succeeded", uri=status.model.uri, manifest=status.model.digest)
    finished = condition(status, Condition.FINISHED)
    # A failed job whose spec was changed afterwards starts anew.
    judged = finished and finished.status == "True" and finished.observed_generation == meta.get("generation")
    return replace(shown, end="Failed") if judged else shown


def _base_place(job: Manifest) -> Place | None:
    """The base job that a FineTuneJob names. The FineTuneJob may be invalid."""
    try:
        return job["metadata"]["namespace"], str(job["spec"]["model"]["fromJob"]["name"])
    except (KeyError, TypeError):
        return None


def _place(job: Manifest) -> Place:
    return job["metadata"]["namespace"], job["metadata"]["name"]
