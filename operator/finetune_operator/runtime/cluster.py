"""What the operator asks of Kubernetes. Objects come with the fields that `transform` keeps."""

import hashlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finetune_operator.names import API_VERSION, FIELD_MANAGER, KIND
from finetune_operator.objects import Manifest
from finetune_operator.planning.types import Event, Reference
from finetune_operator.runtime.api_client import (
    MAX_REASON_CHARS,
    RESOURCES,
    ApiError,
    ConflictError,
    ExistsError,
    ExpiredError,
    MissingError,
    TooLargeError,
    Transport,
    UnavailableError,
)
from finetune_operator.runtime.event_loop import Pace
from finetune_operator.runtime.json_list import pieces
from finetune_operator.runtime.transform import transform

PAGE = 500
"""Objects of a list that one request asks for, unless objects are large."""
PAGE_BYTES = 16 * 2**20
"""A page with more bytes is not read to its end: fewer objects are asked for. The aim is half of that."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchEvent:
    """One line of a watch; a BOOKMARK's object has only a resourceVersion."""

    type: str
    object: Manifest


class Cluster:
    """The verbs; each error is of `transport`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._page_sizes: dict[tuple[str, str | None], int] = {}
        """How many objects of a kind to ask for at once in a namespace."""
        self.api = transport.api

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        """One object.

        Raises:
            MissingError: there is none.
        """
        return typed(kind, await self._transport.request("get", kind, namespace, name))

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> tuple[list[Manifest], str]:
        """All objects of a kind in a namespace or everywhere, page by page, and the list's resourceVersion.

        Raises:
            ExpiredError: the list took so long that its version was forgotten.
        """
        found: list[Manifest] = []
        pace = Pace()
        token = ""
        size = self._page_sizes.get((kind, namespace), PAGE)
        while True:
            query = {"limit": str(size), "labelSelector": selector, "continue": token}
            max_bytes = PAGE_BYTES if size > 1 else None
            try:
                text = await self._transport.read("list", kind, namespace, query=query, max_bytes=max_bytes)
            except TooLargeError:
                size //= 2
                continue
            before = len(found)
            for key, value in pieces(text):
                if key == "items":
                    found.append(typed(kind, value))
                    await pace.give_way()
                elif key == "metadata":
                    version, token = value["resourceVersion"], value.get("continue", "")
            size = _next_page(size, len(found) - before, len(text))
            self._page_sizes[kind, namespace] = size
            if not token:
                return found, version

    async def watch(
        self, kind: str, namespace: str | None, selector: str, since: str, seconds: int
    ) -> AsyncIterator[WatchEvent]:
        """What happens from a resourceVersion on, for at most so many seconds.

        Raises:
            ExpiredError: the version is too old.
            SilentError: nothing came for a while.
            UnavailableError: the connection broke.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": selector,
            "resourceVersion": since,
            "timeoutSeconds": str(seconds),
        }
        async for event in self._transport.stream(kind, namespace, query):
            if event["type"] == "ERROR":
                raise _watch_error(kind, event["object"])
            yield WatchEvent(event["type"], typed(kind, event["object"]))

    async def create(self, manifest: Manifest) -> Manifest:
        """Creates an object.

        Raises:
            ExistsError: the name is taken.
        """
        kind, namespace = manifest["kind"], manifest["metadata"]["namespace"]
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return typed(
            kind, await self._transport.request("create", kind, namespace, query=query, body=manifest)
        )

    async def apply(self, manifest: Manifest, uid: str) -> Manifest:
        """Server-side applies to the object with that uid, and to no other of the same name.

        Raises:
            ConflictError: the object is another one by now.
        """
        kind, meta = manifest["kind"], manifest["metadata"]
        body = {**manifest, "metadata": {**meta, "uid": uid}}
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        return typed(
            kind,
            await self._transport.request(
                "apply", kind, meta["namespace"], meta["name"], query=query, body=body
            ),
        )

    async def delete(self, namespace: str, reference: Reference) -> None:
        """Deletes the object with that uid, its dependents in the background. Gone already is fine."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": reference.uid},
        }
        try:
            await self._transport.request("delete", reference.kind, namespace, reference.name, body=body)
        except (MissingError, ConflictError):
            log.info("%s %s was gone before it was deleted", reference.kind, reference.name)

    async def write_status(self, job: Manifest, status: dict[str, Any]) -> Manifest:
        """Replaces the status of a FineTuneJob as it was read.

        Raises:
            ConflictError: it has changed since.
        """
        meta = job["metadata"]
        return typed(
            KIND,
            await self._transport.request(
                "update",
                KIND,
                meta["namespace"],
                meta["name"],
                subresource="status",
                query={"fieldManager": FIELD_MANAGER},
                body={**job, "status": status},
            ),
        )

    async def namespace_uid(self, namespace: str) -> str:
        """The uid of a namespace.

        Raises:
            MissingError: the namespace is gone.
        """
        found = await self._transport.request("get", "Namespace", None, namespace)
        return str(found["metadata"]["uid"])

    async def events(self, namespace: str, uid: str) -> tuple[Manifest, ...]:
        """The core/v1 Events about the object with that uid."""
        query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": "50"}
        page = await self._transport.request("list", "Event", namespace, query=query)
        return tuple(typed("Event", item) for item in page["items"])

    async def post_event(self, job: Manifest, event: Event, now: datetime) -> None:
        """Posts a Kubernetes Event about a FineTuneJob; the same one again is not posted twice."""
        meta = job["metadata"]
        body = _event(job, event, now)
        try:
            await self._transport.request("create", "NewEvent", meta["namespace"], body=body)
        except ExistsError:
            log.debug("event %s was posted before", body["metadata"]["name"])

    async def lease(self, namespace: str, name: str, seconds: float) -> Manifest:
        """Reads a Lease within so many seconds."""
        return await self._transport.request("get", "Lease", namespace, name, seconds=seconds)

    async def write_lease(self, lease: Manifest, seconds: float) -> Manifest:
        """Creates a Lease, or replaces it as it was read, within so many seconds.

        Leadership rests on this, so it alone is not preceded by a look at the lease.
        """
        meta = lease["metadata"]
        if "resourceVersion" in meta:
            return await self._transport.request(
                "update", "Lease", meta["namespace"], meta["name"], body=lease, seconds=seconds
            )
        return await self._transport.request(
            "create", "Lease", meta["namespace"], body=lease, seconds=seconds
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self.api.close()  # type: ignore[no-untyped-call]


def typed(kind: str, obj: Manifest) -> Manifest:
    """The fields of an object that the operator reads; items of lists come without kind and apiVersion."""
    return {"apiVersion": RESOURCES[kind][0], **transform(kind, obj)}


def _next_page(size: int, found: int, length: int) -> int:
    """How many objects to ask for after a page of `size` with so many objects and so long a text."""
    fitting = PAGE_BYTES // 2 * max(found, 1) // length
    return max(1, min(PAGE, 2 * size, fitting))


def _watch_error(kind: str, status: Manifest) -> ApiError:
    message = f"watch {RESOURCES[kind][1]}: {status.get('message', '')[:MAX_REASON_CHARS]}"
    if status.get("code") == 410:  # noqa: PLR2004 - Gone
        return ExpiredError(message)
    return UnavailableError(message)


def _event(job: Manifest, event: Event, now: datetime) -> Manifest:
    """An events.k8s.io/v1 Event, named by what it says: said again, it is the same one."""
    meta = job["metadata"]
    said = f"{meta['uid']} {event.type} {event.reason} {event.message}"
    name = f"{meta['name'][:200]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": meta["namespace"]},
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": FIELD_MANAGER,
        "reportingInstance": socket.gethostname()[:128],
        "action": event.reason,
        "reason": event.reason,
        "type": event.type,
        "note": event.message[:1024],
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
    }
