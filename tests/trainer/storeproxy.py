"""A plain HTTP proxy before an S3 server that can refuse, reset, stall, fail, shorten and flip bits."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self, get_args

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from devcluster.objectstore import ObjectStore
from tests.relay import Relay, cut

Operation = Literal[
    "head", "get", "list", "put", "delete", "begin upload", "put part", "complete upload", "abort upload"
]
Fault = Literal[
    "refuse",
    "reset",
    "reset in body",
    "hang",
    "stall",
    "pause",
    "slow down",
    "error",
    "full",
    "truncate",
    "flip",
    "lose answer",
]
"""What happens to a request.

refuse: nobody listens. reset: the connection is reset before an answer. reset in body: in the middle of it.
hang: no answer. stall: half an answer and no more. pause: half an answer, and the rest after `resume`. slow
down, error, full: the store's own 503, 500 and 507. truncate: the connection ends in the middle of the
answer. flip: one bit is another in what is sent, and in what is read. lose answer: the store does it, and the
connection ends without an answer.
"""
_OPERATIONS: dict[tuple[str, str], Operation] = {
    ("HEAD", ""): "head",
    ("PUT", ""): "put",
    ("POST", "uploads"): "begin upload",
    ("PUT", "uploadId"): "put part",
    ("POST", "uploadId"): "complete upload",
    ("DELETE", "uploadId"): "abort upload",
}
_OF_HOP = {"connection", "keep-alive", "transfer-encoding"}
_CODES: dict[Fault, tuple[int, str]] = {
    "slow down": (503, "SlowDown"),
    "error": (500, "InternalError"),
    "full": (507, "XMinioStorageFull"),
}


@dataclass
class Ailment:
    """A fault that requests of some kinds suffer."""

    fault: Fault
    operations: frozenset[Operation]
    times: int | None
    """How many requests of each operation suffer it; None: all until `heal`."""
    below: str
    """Part of the paths that suffer it."""
    suffered: list[Operation] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What a client asked of the store."""

    method: str
    path: str
    """/<bucket>/<key>"""
    query: Mapping[str, str]


class StoreProxy:
    """Runs in a thread of its own.

    Attributes:
        endpoint: reaches the store through this proxy.
        requests: every request, in the order of arrival.
    """

    def __init__(self, server: ObjectStore) -> None:
        tls = ssl.create_default_context(cafile=server.ca_file) if server.ca_file else None
        self.requests: list[Request] = []
        self._server = server.endpoint
        self._relay = Relay(self._serve, tls)
        self._ailment: Ailment | None = None
        self._resumed = asyncio.Event()

    def __enter__(self) -> Self:
        self._relay.__enter__()
        self.endpoint = f"http://127.0.0.1:{self._relay.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._relay.__exit__(kind, error, trace)

    def suffer(
        self, fault: Fault, *operations: Operation, times: int | None = None, below: str = ""
    ) -> Ailment:
        """From now on, until `heal`; without operations named, all suffer."""
        self._resumed = asyncio.Event()
        self._ailment = Ailment(fault, frozenset(operations or get_args(Operation)), times, below)
        if fault == "refuse":
            self._relay.refuse()
        return self._ailment

    def resume(self) -> None:
        """Answers that pause go on, and no answer pauses until `suffer`; any thread may call this."""
        self._relay.loop.call_soon_threadsafe(self._resumed.set)

    def heal(self) -> None:
        """From now on everything passes."""
        if self._ailment and self._ailment.fault == "refuse":
            self._relay.listen()
        self._ailment = None

    def _fault_of(self, operation: Operation, path: str) -> Fault | None:
        ailment = self._ailment
        if ailment is None or operation not in ailment.operations or ailment.below not in path:
            return None
        if ailment.times is not None and ailment.suffered.count(operation) >= ailment.times:
            return None
        ailment.suffered.append(operation)
        return ailment.fault

    async def _serve(self, asked: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        operation = operation_of(asked)
        self.requests.append(Request(asked.method, asked.path, dict(asked.query)))
        body = await asked.read()
        fault = self._fault_of(operation, asked.path)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "reset":
            cut(asked, reset=True)
            return web.Response()
        if fault in _CODES:
            return _refusal(*_CODES[fault])
        if fault == "flip" and body:
            body = flipped(body)
        headers = CIMultiDict(
            (name, value) for name, value in asked.headers.items() if name.lower() not in _OF_HOP
        )
        url = URL(self._server + asked.raw_path, encoded=True)
        async with session.request(
            asked.method,
            url,
            data=body or None,
            headers=headers,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            allow_redirects=False,
        ) as answer:
            content = await answer.read()
            if fault == "lose answer":
                cut(asked)
                return web.Response()
            return await _pass_on(asked, answer, content, fault, self._resumed)


async def _pass_on(
    asked: web.Request,
    answer: aiohttp.ClientResponse,
    content: bytes,
    fault: Fault | None,
    resumed: asyncio.Event,
) -> web.StreamResponse:
    headers = CIMultiDict(
        (name, value) for name, value in answer.headers.items() if name.lower() not in _OF_HOP
    )
    if asked.method != "HEAD":
        headers["Content-Length"] = str(len(content))
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
    await response.prepare(asked)
    if fault in {"reset in body", "stall", "truncate"} and content:
        await response.write(content[: len(content) // 2])
        if fault == "stall":
            await asyncio.Event().wait()
        cut(asked, reset=fault == "reset in body")
        return response
    if fault == "pause":
        await response.write(content[: len(content) // 2])
        await resumed.wait()
        content = content[len(content) // 2 :]
    await response.write(flipped(content) if fault == "flip" and asked.method == "GET" else content)
    await response.write_eof()
    return response


def operation_of(asked: web.Request) -> Operation:
    """What S3 calls a request."""
    if asked.method == "GET":
        return "get" if asked.path.strip("/").count("/") else "list"
    mark = next((mark for mark in ("uploadId", "uploads") if mark in asked.query), "")
    return _OPERATIONS.get((asked.method, mark), "delete")


def flipped(body: bytes) -> bytes:
    """The same bytes but for one bit in the middle."""
    changed = bytearray(body)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def _refusal(status: int, code: str) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>from the proxy</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")
