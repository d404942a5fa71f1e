"""Which FineTuneJobs take their model from which, so that a change of one wakes those that wait for it."""

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
    """What FineTuneJobs show to others, by place, and who looks at it.

    Progress is no part of it, so that a job in training does not wake thousands that wait for its end.
    """

    enqueue: Callable[[str], None] = lambda _run: None
    """Called with each run whose base has come, gone or become another, whoever told of it."""
    _shown: dict[Place, BaseJob] = field(default_factory=dict)
    _named: dict[str, Place] = field(default_factory=dict)
    """By run: where its base is, or would be."""
    _heirs: dict[Place, set[str]] = field(default_factory=dict)
    """The same the other way round."""

    def of(self, run: str) -> BaseJob | None:
        """What the base job of a run shows; None where it has none, or there is none of that name."""
        place = self._named.get(run)
        return self._shown.get(place) if place else None

    def put(self, job: Manifest) -> None:
        """Takes in a FineTuneJob that appeared or changed."""
        self._follow(job["metadata"]["uid"], _base_place(job))
        self._show(_place(job), shown_by(job))

    def remove(self, job: Manifest) -> None:
        """Takes in that a FineTuneJob is gone; another may have its name by now."""
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
        for run in self._heirs.get(place, ()):
            self.enqueue(run)

    def _follow(self, run: str, place: Place | None) -> None:
        before = self._named.pop(run, None)
        if before:
            self._heirs[before].discard(run)
            if not self._heirs[before]:
                del self._heirs[before]
        if place:
            self._named[run] = place
            self._heirs.setdefault(place, set()).add(run)


def shown_by(job: Manifest) -> BaseJob:
    """What a FineTuneJob shows."""
    meta = job["metadata"]
    try:
        status = FineTuneJobStatus.model_validate(job.get("status") or {})
    except ValidationError:
        return BaseJob(meta["uid"], State.WAITING)  # as its own turn says of it
    shown = BaseJob(meta["uid"], status.state or State.PENDING)
    if is_condition_true(status, Condition.SUCCEEDED) and status.model:
        return replace(shown, end="Succeeded", uri=status.model.uri, manifest=status.model.digest)
    finished = condition(status, Condition.FINISHED)
    # One that failed and was changed since is at work again, or about to be.
    judged = finished and finished.status == "True" and finished.observed_generation == meta.get("generation")
    return replace(shown, end="Failed") if judged else shown


def _base_place(job: Manifest) -> Place | None:
    """Where a FineTuneJob takes its model from; it may be one that this version cannot read."""
    try:
        return job["metadata"]["namespace"], str(job["spec"]["model"]["fromJob"]["name"])
    except (KeyError, TypeError):
        return None


def _place(job: Manifest) -> Place:
    return job["metadata"]["namespace"], job["metadata"]["name"]
