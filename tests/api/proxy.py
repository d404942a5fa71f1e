"""A plain HTTP proxy before the API server that can lose, refuse, delay and freeze, or kill the caller."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
import yaml
from aiohttp import web

from tests.api.kube import Kube
from tests.relay import Relay, cut

WRITES = {"POST", "PUT", "PATCH", "DELETE"}
Fault = Literal["pass", "kill before", "kill after", "lose answer"] | int
"""What happens to a request; a number: it is answered with that status and not sent on."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    watch: bool

    @property
    def is_write(self) -> bool:
        return self.method in WRITES and "/leases" not in self.path


class Proxy:
    """Runs in a thread of its own.

    Attributes:
        kubeconfig: reaches the API server through this proxy.
        decide: asked what happens to each request.
        kill: called for "kill before" and "kill after".
        requests: all that came.
    """

    def __init__(self, kube: Kube, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._kube = kube
        self._relay = Relay(self._serve, kube.tls)
        self._streams: set[asyncio.Task[Any]] = set()
        self.decide: Callable[[Request], Fault] = lambda _: "pass"
        self.kill: Callable[[], None] = lambda: None
        self._frozen: set[asyncio.Task[Any]] = set()
        self.requests: list[Request] = []

    def __enter__(self) -> Self:
        self._relay.__enter__()
        self._write_kubeconfig()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_watches()
        self._relay.__exit__(kind, error, trace)

    def _write_kubeconfig(self) -> None:
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "p", "cluster": {"server": f"http://127.0.0.1:{self._relay.port}"}}],
            "users": [{"name": "p", "user": {"token": "none"}}],
            "contexts": [{"name": "p", "context": {"cluster": "p", "user": "p"}}],
            "current-context": "p",
        }
        self.kubeconfig.write_text(yaml.safe_dump(text))

    def cut_watches(self) -> None:
        """Ends every watch that is open, without a word."""
        for stream in list(self._streams):
            self._relay.loop.call_soon_threadsafe(stream.cancel)

    def freeze_watches(self) -> None:
        """From now on no watch that is open says anything any more; the connections stay."""
        self._frozen |= self._streams

    async def _serve(self, asked: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        request = Request(asked.method, asked.path, "watch" in asked.query)
        self.requests.append(request)
        fault = self.decide(request)
        if fault == "kill before":
            self.kill()
            return web.Response(status=502)
        if isinstance(fault, int):
            reason = {409: "Conflict", 410: "Expired", 403: "Forbidden"}.get(fault, "InternalError")
            refusal = {
                "kind": "Status",
                "status": "Failure",
                "code": fault,
                "reason": reason,
                "message": "proxy",
            }
            return web.json_response(refusal, status=fault)
        headers = {k: v for k, v in asked.headers.items() if k in {"Content-Type", "Accept", "User-Agent"}}
        url = f"https://{self._kube.host}{asked.raw_path}"
        async with session.request(
            asked.method, url, data=await asked.read() or None, headers=headers
        ) as answer:
            if request.watch and answer.status == 200:
                return await self._stream(asked, answer)
            body = await answer.read()
        if fault == "kill after":
            self.kill()
        if fault in {"kill after", "lose answer"}:
            cut(asked)
        return web.Response(status=answer.status, body=body, content_type="application/json")

    async def _stream(self, asked: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(asked)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            async for line in answer.content:
                if task in self._frozen:
                    await asyncio.Event().wait()
                await response.write(line)
        except (asyncio.CancelledError, ConnectionError):
            cut(asked)
        finally:
            self._streams.discard(task)
        return response
