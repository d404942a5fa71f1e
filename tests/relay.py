"""A plain HTTP server before another server, in a thread of its own; proxies that do harm are made of it."""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

Serve = Callable[[web.Request, aiohttp.ClientSession], Awaitable[web.StreamResponse]]


class Relay:
    """Listens on the loopback.

    Args:
        serve: answers a request, with a session for what it sends on.
        tls: trust in the server behind.

    Attributes:
        port: the same also after `refuse` and `listen`.
        loop: where `serve` runs; other threads reach it with `call_soon_threadsafe`.
    """

    def __init__(self, serve: Serve, tls: ssl.SSLContext | None) -> None:
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self._serve = serve
        self._tls = tls
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def refuse(self) -> None:
        """Connections are refused from now on, and those that are open end."""
        self._do(self._close)

    def listen(self) -> None:
        """Connections are taken again."""
        self._do(self._open)

    def _do(self, action: Callable[[], Awaitable[None]]) -> None:
        async def act() -> None:
            await action()

        asyncio.run_coroutine_threadsafe(act(), self.loop).result(20)

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls or True, limit=0),
            read_bufsize=2**21,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        await self._open()

    async def _stop(self) -> None:
        await self._close()
        await self._session.close()

    async def _open(self) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, asked: web.Request) -> web.StreamResponse:
        return await self._serve(asked, self._session)


def cut(asked: web.Request, *, reset: bool = False) -> None:
    """Ends the connection of a request without a word, or with a TCP reset."""
    if asked.transport is None:
        return
    if reset:
        linger = struct.pack("ii", 1, 0)
        asked.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        asked.transport.abort()
    else:
        asked.transport.close()
