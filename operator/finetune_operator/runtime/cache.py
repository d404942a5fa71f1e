"""What the watches have told: raw objects, found by the uid of the FineTuneJob that they belong to.

Objects are kept as packed JSON text, by what they differ from the first of their kind: a hundredth of
what they take when read. Those in use stay read.

It may lag behind the API server. So nothing rests on it alone: names are deterministic, creating is refused
where something exists, deletes carry the uid and status writes the resourceVersion.
"""

import json
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from finetune_operator.names import KIND, LABEL_UID
from finetune_operator.objects import Manifest
from finetune_operator.runtime.model_dependencies import ModelDependencies

ChildKind = Literal["Job", "Pod", "Service", "NetworkPolicy"]
CHILD_KINDS: tuple[ChildKind, ...] = ("Job", "Pod", "Service", "NetworkPolicy")
REMEMBERED_DELETIONS = 20_000
OPEN = 64
"""Objects that stay read: those of as many runs as are worked on at once."""


class Kept(NamedTuple):
    """One object."""

    uid: str
    version: int
    kind: str
    packed: bytes


class Cache:
    """Raw objects by run. A run is named by the uid of its FineTuneJob, also when that is gone."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str, str], Kept]] = {}
        self._examples: dict[str, bytes] = {}
        """By kind, the text of the first object: the others are packed by it."""
        self._open: OrderedDict[Kept, Manifest] = OrderedDict()
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._unreadable: dict[tuple[str, str | None], str] = {}
        self.model_dependencies = ModelDependencies()

    def job(self, run: str) -> Manifest | None:
        """The FineTuneJob of a run."""
        mine = self._objects.get(run, {})
        return next((self._read(kept) for (kind, _, _), kept in mine.items() if kind == KIND), None)

    def jobs(self) -> Iterator[Manifest]:
        """All FineTuneJobs; a scrape reads them in a thread of its own, from copies of what changes."""
        for mine in list(self._objects.values()):
            for (kind, _, _), kept in list(mine.items()):
                if kind == KIND:
                    # Not by way of those that stay read: all at once would drive them out.
                    yield self._unpacked(kept)

    def runs(self) -> set[str]:
        """All runs of which anything is left."""
        return set(self._objects)

    def namespace(self, run: str) -> str | None:
        """Namespace of a run: of its FineTuneJob, else of any of its objects; None if nothing is left."""
        places = self._objects.get(run, ())
        of_job = (namespace for kind, namespace, _ in places if kind == KIND)
        return next(of_job, next((namespace for _, namespace, _ in places), None))

    def children(self, run: str, kind: ChildKind) -> tuple[Manifest, ...]:
        """What a run has of a kind, by name."""
        mine = self._objects.get(run, {})
        return tuple(self._read(mine[where]) for where in sorted(mine) if where[0] == kind)

    def child(self, run: str, kind: str, name: str) -> Manifest | None:
        """One object of a run."""
        mine = self._objects.get(run, {})
        return next((self._read(kept) for (k, _, n), kept in mine.items() if k == kind and n == name), None)

    def unreadable(self, namespace: str) -> str | None:
        """What the API server said when it refused to let us read a kind in a namespace; None: it does."""
        refusals = self._unreadable.items()
        return next((said for (_, where), said in refusals if where in {None, namespace}), None)

    def note_readable(self, kind: str, namespace: str | None, refusal: str | None) -> bool:
        """Takes in whether a kind can be read; returns whether that was news."""
        before = self._unreadable.pop((kind, namespace), None)
        if refusal is not None:
            self._unreadable[kind, namespace] = refusal
        return before != refusal

    def put(self, obj: Manifest) -> str | None:
        """Takes in what the API server said; returns the run where that was news.

        Out of order is no harm: an older version of the same object, or one known to be deleted, is ignored.
        """
        meta = obj["metadata"]
        run, where = _place(obj)
        if run is None or meta["uid"] in self._deleted:
            return None
        mine = self._objects.setdefault(run, {})
        known = mine.get(where)
        if known and known.uid == meta["uid"] and known.version >= _version(obj):
            return None
        mine[where] = self._keep({**obj, "metadata": {k: v for k, v in meta.items() if k != "managedFields"}})
        if obj["kind"] == KIND:
            self.model_dependencies.put(obj)
        return run

    def remove(self, obj: Manifest) -> str | None:
        """Takes in that an object is gone for good; returns the run where that was news."""
        uid = obj["metadata"]["uid"]
        self._deleted[uid] = None
        if len(self._deleted) > REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)
        run, where = _place(obj)
        mine = self._objects.get(run or "", {})
        known = mine.get(where)
        if run is None or known is None or known.uid != uid:
            return None
        del mine[where]
        if not mine:
            del self._objects[run]
        if obj["kind"] == KIND:
            self.model_dependencies.remove(obj)
        return run

    def replace(
        self, kind: str, namespace: str | None, objects: Iterable[Manifest], resource_version: str
    ) -> set[str]:
        """Takes in a complete list of a kind (of one namespace or all); returns the runs where it was news.

        What is newer than the list stays: it was created while the list was on its way.
        """
        changed = set()
        listed = set()
        for obj in objects:
            listed.add(obj["metadata"]["uid"])
            changed.add(self.put(obj))
        gone = [
            kept
            for mine in self._objects.values()
            for (k, ns, _), kept in mine.items()
            if k == kind
            and (namespace is None or ns == namespace)
            and kept.uid not in listed
            and kept.version <= int(resource_version)
        ]
        changed |= {self.remove(self._read(kept)) for kept in gone}
        return {run for run in changed if run is not None}

    def forget(self, namespace: str | None) -> set[str]:
        """Drops all objects of a namespace (None: of all namespaces); returns their runs.

        The objects can no longer be read but may exist: unlike removed objects, they are taken in again.
        """
        runs = set()
        for run, mine in list(self._objects.items()):
            gone = [place for place in mine if namespace in {None, place[1]}]
            if gone:
                runs.add(run)
            for place in gone:
                kept = mine.pop(place)
                if kept.kind == KIND:
                    self.model_dependencies.remove(self._unpacked(kept))
            if not mine:
                del self._objects[run]
        return runs

    def _keep(self, obj: Manifest) -> Kept:
        text = json.dumps(obj, separators=(",", ":")).encode()
        example = self._examples.setdefault(obj["kind"], text)
        packer = zlib.compressobj(zlib.Z_BEST_SPEED, zdict=example)
        packed = packer.compress(text) + packer.flush()
        kept = Kept(obj["metadata"]["uid"], _version(obj), obj["kind"], packed)
        self._stay_read(kept, obj)
        return kept

    def _read(self, kept: Kept) -> Manifest:
        obj = self._open.get(kept) or self._unpacked(kept)
        self._stay_read(kept, obj)
        return obj

    def _unpacked(self, kept: Kept) -> Manifest:
        unpacker = zlib.decompressobj(zdict=self._examples[kept.kind])
        obj: Manifest = json.loads(unpacker.decompress(kept.packed))
        return obj

    def _stay_read(self, kept: Kept, obj: Manifest) -> None:
        self._open[kept] = obj
        self._open.move_to_end(kept)
        if len(self._open) > OPEN:
            self._open.popitem(last=False)


def _place(obj: Manifest) -> tuple[str | None, tuple[str, str, str]]:
    meta = obj["metadata"]
    run = meta["uid"] if obj["kind"] == KIND else meta.get("labels", {}).get(LABEL_UID)
    return run, (obj["kind"], meta["namespace"], meta["name"])


def _version(obj: Manifest) -> int:
    # Kubernetes declares resource versions of one resource comparable as integers.
    return int(obj["metadata"]["resourceVersion"])
