"""A cluster in memory, small and truthful where it matters: jobs, pods, deletion, a clock, an operator that
may be killed between any two writes.

The operator's turn is carried out in the order that `observed.Plan` promises.
"""

import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from finetune_operator.api import FineTuneJob, FineTuneJobStatus
from finetune_operator.objects import Manifest, has_started
from finetune_operator.planning.plan import plan
from finetune_operator.planning.types import Observed, Plan
from finetune_operator.settings import Settings
from tests.operator import scenes


class Killed(Exception):  # noqa: N818 - what happens to the operator
    """The operator was killed before its next write."""


@dataclass
class Miniature:
    job: FineTuneJob
    configured: Settings = field(default_factory=scenes.settings)
    now: datetime = scenes.NOW
    objects: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    pods: dict[str, Manifest] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    gone: bool = False
    births: int = 0
    writes_left: int | None = None
    """How many more writes the operator survives; None: all."""

    def reconcile(self, writes_left: int | None = None) -> Plan | None:
        """One turn of the operator; None where it was killed or there is no job any more."""
        self.writes_left = writes_left
        try:
            return None if self.gone else self._turn()
        except Killed:
            return None

    def _turn(self) -> Plan:
        for _ in range(5):
            made = self.decide()
            changed = [self._put(manifest) for manifest in (*made.apply, *made.create)]
            if not any(changed):
                break
        else:
            raise AssertionError("the plan never stops making things")
        if made.status != (self.job.status or FineTuneJobStatus()):
            self._write("status")
            self._status(made.status)
        for reference in made.delete:
            self._write(f"delete {reference.kind} {reference.name}")
            if reference.kind == "FineTuneJob":
                self.gone = True
            elif reference.kind == "Job":
                self.delete_job(reference.name, reference.uid)
            else:
                del self.objects[reference.kind, reference.name]
        for event in made.events:
            self._write(f"event {event.reason}")
        return made

    def decide(self) -> Plan:
        made = plan(self.job, self.observed(), self.configured, self.now)
        assert plan(self.job, self.observed(), self.configured, self.now) == made
        return made

    def observed(self) -> Observed:
        def of(kind: str) -> tuple[Manifest, ...]:
            return tuple(o for (k, _), o in sorted(self.objects.items()) if k == kind)

        pods = tuple(p for _, p in sorted(self.pods.items()))
        return Observed(
            jobs=of("Job"),
            pods=pods,
            services=of("Service"),
            network_policies=of("NetworkPolicy"),
            cleanup_records=of("ControllerRevision"),
            namespace_uid=scenes.NAMESPACE_UID,
        )

    def settle(self) -> None:
        """What Kubernetes does by itself: pods are made, counted, collected."""
        for job in self.jobs():
            wanted = job["spec"]["completions"]
            mine = self.pods_of(job)
            if not job["spec"].get("suspend") and not job["status"].get("conditions"):
                there = {p["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for p in mine}
                for index in range(wanted):
                    if str(index) not in there and index not in job["status"]["lost"]:
                        self._make_pod(job, index)
            mine = self.pods_of(job)
            phases = [p["status"]["phase"] for p in mine]
            lost = job["status"]["lost"]
            job["status"]["failed"] = phases.count("Failed") + len(lost)
            job["status"]["failedIndexes"] = ",".join(str(i) for i in sorted(lost))
            if phases.count("Succeeded") == wanted:
                self._conclude(job, "Complete")
            elif phases.count("Succeeded") + phases.count("Failed") + len(lost) == wanted:
                self._conclude(job, "Failed")

    def age(self, seconds: float) -> None:
        """Time passes; pods whose grace period is over are gone."""
        self.now += timedelta(seconds=seconds)
        for pod in list(self.pods.values()):
            leaves = pod["metadata"].get("deletionTimestamp")
            if leaves and datetime.fromisoformat(leaves) <= self.now and not pod.get("stuck"):
                self._remove_pod(pod)

    def jobs(self) -> list[Manifest]:
        return [o for (kind, _), o in sorted(self.objects.items()) if kind == "Job"]

    def pods_of(self, job: Manifest) -> list[Manifest]:
        uid = job["metadata"]["uid"]
        found = [
            p
            for p in self.pods.values()
            if p["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] == uid
        ]
        return sorted(found, key=lambda p: str(p["metadata"]["name"]))

    def active_pods(self) -> list[Manifest]:
        return [p for p in self.pods.values() if p["status"]["phase"] in ("Pending", "Running")]

    def end_pod(self, pod: Manifest, code: int, says: Any) -> None:
        """A pod's container ends."""
        job = next((j for j in self.jobs() if pod in self.pods_of(j)), None)
        of = job or {"metadata": pod["metadata"], "spec": {"template": {"metadata": pod["metadata"]}}}
        short = {"code": code, "says": says, "at": _text(self.now), "began": pod["status"].get("startTime")}
        pod["status"] = scenes.pod_status(of, short)

    def delete_job(self, name: str, uid: str | None = None) -> None:
        """Background propagation: the Job goes, its pods get their grace period."""
        job = self.objects.get(("Job", name))
        if job is None or (uid and job["metadata"]["uid"] != uid):
            return
        for pod in self.pods_of(job):
            self.delete_pod(pod)
        del self.objects[("Job", name)]

    def delete_pod(self, pod: Manifest) -> None:
        if pod["status"]["phase"] == "Running":
            pod["metadata"].setdefault("deletionTimestamp", _text(self.now + timedelta(seconds=120)))
        else:
            self._remove_pod(pod)

    def lose_finished_pods(self) -> None:
        """Pods that Kubernetes has counted are collected."""
        for job in self.jobs():
            for pod in self.pods_of(job) if job["status"].get("conditions") else ():
                if pod["status"]["phase"] in ("Succeeded", "Failed"):
                    del self.pods[pod["metadata"]["name"]]

    def edit(self, changes: Manifest) -> None:
        """A person applies a changed job; the status stays."""
        document = scenes.merged(
            self.job.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True), changes
        )
        document["metadata"]["generation"] += 1
        status = self.job.status
        self.job = FineTuneJob.model_validate(document).model_copy(update={"status": status})

    def _put(self, manifest: Manifest) -> bool:
        where = (manifest["kind"], manifest["metadata"]["name"])
        if where in self.objects and where[0] in {"Job", "ControllerRevision"}:
            return False
        self._write(f"put {' '.join(where)}")
        made = copy.deepcopy(manifest)
        self.births += 1
        made["metadata"] |= {"uid": f"uid-{self.births}", "creationTimestamp": _text(self.now)}
        if where[0] == "Job":
            self._check_birth(made)
            made["status"] = {"lost": set()}
        self.objects[where] = made
        return True

    def _check_birth(self, job: Manifest) -> None:
        """No attempt twice, and none beside pods of another."""
        name = job["metadata"]["name"]
        attempts = self.job.status.attempts if self.job.status else []
        assert name not in [a.job for a in attempts], f"{name} is made a second time"
        left = [p["metadata"]["name"] for p in self.active_pods() if not p.get("stuck")]
        assert not left, f"{name} is made while there are {left}"

    def _status(self, status: FineTuneJobStatus) -> None:
        before = self.job.status or FineTuneJobStatus()
        ended = [a for a in before.attempts if a.outcome != "Running"]
        after = {a.job: a for a in status.attempts}
        left = [a.job for a in before.attempts if a.job in after]
        dropped = status.attempts_dropped.total if status.attempts_dropped else 0
        dropped -= before.attempts_dropped.total if before.attempts_dropped else 0
        assert [a.job for a in status.attempts[: len(left)]] == left
        assert len(before.attempts) - len(left) <= dropped, "an attempt was lost without being counted"
        assert all(after.get(a.job, a) == a for a in ended), "an attempt that had ended was changed"
        assert len(status.attempts) <= 64, "the API server refuses such a status"
        assert sum(a.outcome == "Running" for a in status.attempts) <= 1
        if _finished(before) and self.job.metadata["generation"] == before.observed_generation:
            assert _finished(status), "a finished job went on"
        round_trip = FineTuneJobStatus.model_validate(
            status.model_dump(mode="json", by_alias=True, exclude_none=True)
        )
        self.job = self.job.model_copy(update={"status": round_trip})

    def _write(self, what: str) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise Killed
            self.writes_left -= 1
        self.writes.append(what)

    def _remove_pod(self, pod: Manifest) -> None:
        """Its Job counts a pod that has gone before it ended as failed; it is not replaced."""
        del self.pods[pod["metadata"]["name"]]
        labels = pod["metadata"]["labels"]
        for job in self.jobs():
            if job["metadata"]["uid"] == labels["batch.kubernetes.io/controller-uid"]:
                job["status"]["lost"].add(int(labels["batch.kubernetes.io/job-completion-index"]))

    def _make_pod(self, job: Manifest, index: int) -> None:
        made = scenes.pod(self.job, job, {"index": index, "is": "Creating", "began": _text(self.now)})
        made["metadata"]["name"] += job["metadata"]["uid"]
        self.pods[made["metadata"]["name"]] = made

    def _conclude(self, job: Manifest, how: str) -> None:
        if not job["status"].get("conditions"):
            at = {"status": "True", "lastTransitionTime": _text(self.now)}
            job["status"]["conditions"] = [{"type": how, **at}]


def run_pods(mini: Miniature) -> None:
    """Pods that wait begin to run."""
    for pod in mini.pods.values():
        if not has_started(pod) and not pod["metadata"].get("deletionTimestamp"):
            index = int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])
            began = {"is": "Running", "began": _text(mini.now), "index": index}
            pod["status"] = scenes.pod_status(pod, began)


def _finished(status: FineTuneJobStatus) -> bool:
    return any(c.type == "Finished" and c.status == "True" for c in status.conditions)


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
