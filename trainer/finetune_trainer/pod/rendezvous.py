"""Looks for the pod with index 0 while everything else goes on: its name first, then its port."""

import socket
import threading
import time
from dataclasses import dataclass

_RETRY_SECONDS = 0.25
_CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class Found:
    """How far the search has come."""

    address: str | None = None
    """What the name resolves to; None: it does not, yet."""
    answers: bool = False
    """Whether the port has accepted a connection."""
    trouble: str = "not tried yet"
    """The last error."""

    def describe(self, host: str, port: int) -> str:
        """One sentence about what is missing."""
        if self.address is None:
            return f"The name {host} of the pod with index 0 does not resolve ({self.trouble})."
        if not self.answers:
            return f"Index 0 ({host}, {self.address}) does not answer on port {port} ({self.trouble})."
        return f"Index 0 ({host}, {self.address}) answers on port {port}."


class MasterSearch:
    """A thread that tries until the master answers; ask it by `found`.

    torchrun may start as soon as the name resolves: it retries the connection itself, and importing torch
    takes longer than the wait. Going on here tells afterwards which of the two, name or port, was missing.
    A name is looked up again every time, because the answer may be the address of a pod that has gone.
    """

    def __init__(self, host: str, port: int, seconds: float) -> None:
        self.found = Found()
        self._host = host
        self._port = port
        self._deadline = time.monotonic() + seconds
        threading.Thread(target=self._search, name="master", daemon=True).start()

    def _search(self) -> None:
        while not self.found.answers and time.monotonic() < self._deadline:
            self._try()
            time.sleep(_RETRY_SECONDS)

    def _try(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            self.found = Found(trouble=str(error))
            return
        family, kind, protocol, _, address = found[0]
        name = str(address[0])
        self.found = Found(name, trouble=self.found.trouble)
        try:
            with socket.socket(family, kind, protocol) as link:
                link.settimeout(_CONNECT_SECONDS)
                link.connect(address)
        except OSError as error:
            self.found = Found(name, trouble=str(error))
        else:
            self.found = Found(name, answers=True)
