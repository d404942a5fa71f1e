"""An API server in memory, as `cluster.Cluster` sees it: versions, uids, taken names; no controllers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from finetune_operator.names import KIND, LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.planning.types import Event, Reference
from finetune_operator.runtime.api_client import ConflictError, ExistsError, MissingError
from finetune_operator.runtime.cluster import Cluster, typed
from tests.operator import scenes


@dataclass
class ApiServer:
    """What is there, and in `calls` what was asked: one line each, such as `create Job tickets-0b5c3-p1`."""

    objects: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    events_of: dict[str, tuple[Manifest, ...]] = field(default_factory=dict)
    posted: list[Event] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    before: Callable[[str], None] = lambda _: None
    """Called with each line before it is carried out; what it raises is the answer."""
    versions: int = 100

    @property
    def cluster(self) -> Cluster:
        """As its clients know it."""
        return cast("Cluster", self)

    def put(self, obj: Manifest) -> Manifest:
        """Somebody writes an object; returns the fields of it that a client of ours keeps."""
        self.versions += 1
        new = {"uid": f"uid-{self.versions}", "creationTimestamp": scenes.NOW.isoformat()}
        meta = new | obj["metadata"] | {"resourceVersion": str(self.versions)}
        made = {"status": {}, **copy.deepcopy(obj), "metadata": meta}
        self.objects[obj["kind"], meta["name"]] = made
        return _seen(made)

    def names(self, kind: str) -> list[str]:
        """What there is of a kind."""
        return sorted(name for k, name in self.objects if k == kind)

    def writes(self) -> list[str]:
        """The calls that changed something."""
        return [call for call in self.calls if call.split()[0] not in ("get", "list", "events")]

    async def get(self, kind: str, _namespace: str, name: str) -> Manifest:
        self._call(f"get {kind} {name}")
        if (kind, name) not in self.objects:
            raise MissingError(f"get {kind} {name}: not found")
        return _seen(self.objects[kind, name])

    async def list(self, kind: str, _namespace: str | None, selector: str = "") -> tuple[list[Manifest], str]:
        self._call(f"list {kind}")
        found = [o for (k, _), o in sorted(self.objects.items()) if k == kind]
        run = selector.removeprefix(f"{LABEL_UID}=")
        mine = [o for o in found if o["metadata"].get("labels", {}).get(LABEL_UID) == run]
        return [_seen(o) for o in (mine if selector.startswith(LABEL_UID) else found)], str(self.versions)

    async def create(self, manifest: Manifest) -> Manifest:
        where = manifest["kind"], manifest["metadata"]["name"]
        self._call(f"create {' '.join(where)}")
        if where in self.objects:
            raise ExistsError(f"create {' '.join(where)}: exists")
        return self.put(manifest)

    async def apply(self, manifest: Manifest, uid: str) -> Manifest:
        where = manifest["kind"], manifest["metadata"]["name"]
        self._call(f"apply {' '.join(where)}")
        there = self.objects.get(where)
        if there is None or there["metadata"]["uid"] != uid:
            raise ConflictError(f"apply {' '.join(where)}: another uid")
        return self.put({**manifest, "metadata": {**manifest["metadata"], "uid": uid}})

    async def delete(self, _namespace: str, reference: Reference) -> None:
        self._call(f"delete {reference.kind} {reference.name}")
        there = self.objects.get((reference.kind, reference.name))
        if there and there["metadata"]["uid"] == reference.uid:
            del self.objects[reference.kind, reference.name]

    async def write_status(self, job: Manifest, status: dict[str, Any]) -> Manifest:
        self._call("status")
        there = self.objects[KIND, job["metadata"]["name"]]
        if there["metadata"]["resourceVersion"] != job["metadata"]["resourceVersion"]:
            raise ConflictError("update finetunejobs: it has changed")
        return self.put({**there, "status": copy.deepcopy(status)})

    async def namespace_uid(self, namespace: str) -> str:
        self._call(f"get Namespace {namespace}")
        return scenes.NAMESPACE_UID

    async def events(self, _namespace: str, uid: str) -> tuple[Manifest, ...]:
        self._call(f"events {uid}")
        return self.events_of.get(uid, ())

    async def post_event(self, _job: Manifest, event: Event, _now: datetime) -> None:
        self._call(f"event {event.reason}")
        self.posted.append(event)

    def _call(self, what: str) -> None:
        self.calls.append(what)
        self.before(what)


def _seen(obj: Manifest) -> Manifest:
    return typed(obj["kind"], copy.deepcopy(obj))
