"""The requests of the operator to the API server. Returned objects have the fields that `transform` keeps."""

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
"""Most objects in one page of a list."""
PAGE_BYTES = 16 * 2**20
"""Most bytes in one page. A larger page is not read to its end, and the next request asks for fewer objects.
The page size is chosen for half as many bytes."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchEvent:
    """One event of a watch; the object of a BOOKMARK has only a resourceVersion."""

    type: str
    object: Manifest


class Cluster:
    """One method for each kind of request; see `Transport` for the errors that all methods raise."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._page_sizes: dict[tuple[str, str | None], int] = {}
        """Page size of a list, by kind and namespace."""
        self.api = transport.api

    async def get(self, kind: str, namespace: str, name: str) -> Manifest:
        """Reads an object.

        Raises:
            MissingError: no object has the name.
        """
        return typed(kind, await self._transport.request("get", kind, namespace, name))

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> tuple[list[Manifest], str]:
        """Lists a kind in a namespace or in the cluster, page by page; returns objects and resourceVersion.

        Raises:
            ExpiredError: the list took so long that the API server has dropped its version.
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
        """Watches a kind from a resourceVersion on, for at most so many seconds.

        Raises:
            ExpiredError: the version is too old.
            SilentError: no event came for a while.
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

    async def review(self, kind: str, spec: Manifest) -> Manifest:
        """Sends a TokenReview or a SubjectAccessReview; returns the status of the answer."""
        body = {"apiVersion": RESOURCES[kind][0], "kind": kind, "spec": spec}
        answer = await self._transport.request("create", kind, None, body=body)
        status: Manifest = answer.get("status") or {}
        return status

    async def create(self, manifest: Manifest) -> Manifest:
        """Creates an object.

        Raises:
            ExistsError: an object has the name.
        """
        kind, namespace = manifest["kind"], manifest["metadata"]["namespace"]
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return typed(
            kind, await self._transport.request("create", kind, namespace, query=query, body=manifest)
        )

    async def apply(self, manifest: Manifest, uid: str) -> Manifest:
        """Applies a manifest (server-side apply) to the object with that uid.

        Raises:
            ConflictError: another object has the name now.
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
        """Deletes the object with that uid, and its dependents in the background, unless it is gone."""
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
        """Replaces the status of a FineTuneJob.

        Raises:
            ConflictError: the FineTuneJob has changed since `job` was read.
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
        """Posts a Kubernetes Event about a FineTuneJob, unless the same Event exists."""
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
        """Creates a Lease, or replaces the version that was read, within so many seconds.

        This is the only write that a process may send without holding the Lease.
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
    """Keeps the fields that the operator reads and sets kind and apiVersion, which items of lists lack."""
    return {"apiVersion": RESOURCES[kind][0], **transform(kind, obj)}


def _next_page(size: int, found: int, length: int) -> int:
    """The size of the next page, after a page of `size` with `found` objects in `length` bytes."""
    fitting = PAGE_BYTES // 2 * max(found, 1) // length
    return max(1, min(PAGE, 2 * size, fitting))


def _watch_error(kind: str, status: Manifest) -> ApiError:
    message = f"watch {RESOURCES[kind][1]}: {status.get('message', '')[:MAX_REASON_CHARS]}"
    if status.get("code") == 410:  # noqa: PLR2004 - Gone
        return ExpiredError(message)
    return UnavailableError(message)


def _event(job: Manifest, event: Event, now: datetime) -> Manifest:
    """An events.k8s.io/v1 Event. The name is a hash of the content, so equal Events have equal names."""
    meta = job["metadata"]
    content = f"{meta['uid']} {event.type} {event.reason} {event.message}"
    name = f"{meta['name'][:200]}.{hashlib.sha256(content.encode()).hexdigest()[:16]}"
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
