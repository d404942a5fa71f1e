"""The cache: the objects that lists and watches report, by the uid of the FineTuneJob that owns them.

`transform` has reduced each object to the fields that the operator reads.

The cache may lag behind the API server, so the API server checks every write: names are deterministic and a
create of an existing name fails, a delete carries the uid, and a write of the status the resourceVersion.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Literal

from finetune_operator.names import KIND, LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.runtime.event_loop import Pace
from finetune_operator.runtime.model_dependencies import ModelDependencies
from finetune_operator.runtime.node_failures import NodeFailures

ChildKind = Literal["Job", "Pod", "Service", "NetworkPolicy", "ControllerRevision"]
CHILD_KINDS: tuple[ChildKind, ...] = ("Job", "Pod", "Service", "NetworkPolicy", "ControllerRevision")
REMEMBERED_DELETIONS = 20_000
Name = tuple[str, str]
"""Namespace and name of an object."""


class Cache:
    """Objects by run. The key of a run is the uid of its FineTuneJob, also when the FineTuneJob is gone.

    Callers must not change an object of the cache.
    """

    def __init__(self) -> None:
        self._runs: dict[str, dict[str, dict[Name, Manifest]]] = {}
        """By run, kind and name."""
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._unreadable: dict[tuple[str, str | None], str] = {}
        self.model_dependencies = ModelDependencies()
        self.node_failures = NodeFailures()

    def job(self, run: str) -> Manifest | None:
        """The FineTuneJob of a run."""
        return next(iter(self._of(run, KIND).values()), None)

    def jobs(self) -> Iterator[Manifest]:
        """All FineTuneJobs. A scrape iterates in another thread, so the loops run over copies."""
        for kinds in list(self._runs.values()):
            yield from list(kinds.get(KIND, {}).values())

    def runs(self) -> set[str]:
        """All runs with at least one object."""
        return set(self._runs)

    def namespace(self, run: str) -> str | None:
        """Namespace of a run: of its FineTuneJob, else of any of its objects; None: the run has no object."""
        kinds = self._runs.get(run, {})
        names = kinds.get(KIND) or next(iter(kinds.values()), {})
        return next((namespace for namespace, _ in names), None)

    def children(self, run: str, kind: ChildKind) -> tuple[Manifest, ...]:
        """The objects of a run of one kind, ordered by name."""
        mine = self._of(run, kind)
        return tuple(mine[name] for name in sorted(mine))

    def child(self, run: str, kind: str, name: str) -> Manifest | None:
        """The object of a run with a kind and name."""
        return next((obj for (_, n), obj in self._of(run, kind).items() if n == name), None)

    def unreadable(self, namespace: str) -> str | None:
        """The API server's message if a kind may not be read in a namespace; None: all kinds may be read."""
        refusals = self._unreadable.items()
        return next((refusal for (_, where), refusal in refusals if where in {None, namespace}), None)

    def note_readable(self, kind: str, namespace: str | None, refusal: str | None) -> bool:
        """Records the refusal to read a kind (None: the kind may be read); returns whether this is new."""
        before = self._unreadable.pop((kind, namespace), None)
        if refusal is not None:
            self._unreadable[kind, namespace] = refusal
        return before != refusal

    def put(self, obj: Manifest) -> str | None:
        """Stores an object; returns its run if the object is new or newer than the stored one.

        Objects may arrive out of order: an older version, and an object known to be deleted, are ignored.
        """
        meta, run = obj["metadata"], _run_of(obj)
        if run is None or meta["uid"] in self._deleted:
            return None
        mine = self._runs.setdefault(run, {}).setdefault(obj["kind"], {})
        known = mine.get(_name(obj))
        if known and known["metadata"]["uid"] == meta["uid"] and _version(known) >= _version(obj):
            return None
        mine[_name(obj)] = obj
        if obj["kind"] == KIND:
            self.model_dependencies.put(obj)
            self.node_failures.put(obj)
        return run

    def remove(self, obj: Manifest) -> str | None:
        """Removes a deleted object; returns its run if the cache had the object."""
        kind, uid, run = obj["kind"], obj["metadata"]["uid"], _run_of(obj)
        self._deleted[uid] = None
        if len(self._deleted) > REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)
        if run is None:
            return None
        mine = self._of(run, kind)
        known = mine.get(_name(obj))
        if known is None or known["metadata"]["uid"] != uid:
            return None
        del mine[_name(obj)]
        if not mine:
            del self._runs[run][kind]
        if not self._runs[run]:
            del self._runs[run]
        if kind == KIND:
            self.model_dependencies.remove(obj)
            self.node_failures.remove(obj)
        return run

    async def replace(
        self, kind: str, namespace: str | None, objects: Iterable[Manifest], resource_version: str
    ) -> set[str]:
        """Replaces the objects of a kind (in one namespace or all) by a list; returns the changed runs.

        Objects newer than the list stay: they were created after the list. Long lists give way to other
        tasks.
        """
        changed = set()
        listed = set()
        pace = Pace()
        for obj in objects:
            listed.add(obj["metadata"]["uid"])
            changed.add(self.put(obj))
            await pace.give_way()
        gone = [
            obj
            for kinds in self._runs.values()
            for (ns, _), obj in kinds.get(kind, {}).items()
            if (namespace is None or ns == namespace)
            and obj["metadata"]["uid"] not in listed
            and _version(obj) <= int(resource_version)
        ]
        changed |= {self.remove(obj) for obj in gone}
        return {run for run in changed if run is not None}

    def forget(self, namespace: str | None) -> set[str]:
        """Drops all objects of a namespace (None: of all namespaces); returns their runs.

        The objects can no longer be read but may exist, so `put` accepts them again, unlike removed objects.
        """
        runs = set()
        for run, kinds in list(self._runs.items()):
            for kind, mine in list(kinds.items()):
                for name in [name for name in mine if namespace in {None, name[0]}]:
                    runs.add(run)
                    gone = mine.pop(name)
                    if kind == KIND:
                        self.model_dependencies.remove(gone)
                        self.node_failures.remove(gone)
                if not mine:
                    del kinds[kind]
            if not kinds:
                del self._runs[run]
        return runs

    def _of(self, run: str, kind: str) -> dict[Name, Manifest]:
        return self._runs.get(run, {}).get(kind, {})


def _run_of(obj: Manifest) -> str | None:
    meta = obj["metadata"]
    run: str | None = meta["uid"] if obj["kind"] == KIND else meta.get("labels", {}).get(LABEL_UID)
    return run


def _name(obj: Manifest) -> Name:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _version(obj: Manifest) -> int:
    # Kubernetes declares resource versions of one resource comparable as integers.
    return int(obj["metadata"]["resourceVersion"])
