"""Searches for the pod with index 0 in a thread: first its name in DNS, then its port."""

import socket
import threading
import time
from dataclasses import dataclass

_RETRY_SECONDS = 0.25
_CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class Found:
    """The state of the search."""

    address: str | None = None
    """The address of the name; None while the name does not resolve."""
    answers: bool = False
    """Whether the port has accepted a connection."""
    trouble: str = "no attempt yet"
    """The last error."""

    def describe(self, host: str, port: int) -> str:
        """Describes the state of the search in one sentence.

        Args:
            host: name of the pod with index 0.
            port: rendezvous port.
        """
        if self.address is None:
            return f"The name {host} of the pod with index 0 does not resolve ({self.trouble})."
        if not self.answers:
            return f"Index 0 ({host}, {self.address}) does not answer on port {port} ({self.trouble})."
        return f"Index 0 ({host}, {self.address}) answers on port {port}."


class MasterSearch:
    """A thread that connects to the pod with index 0 until the pod answers; `found` is the latest state.

    torchrun may start as soon as the name resolves, because torchrun retries the connection itself. The
    search goes on in parallel, so that a failure message can say whether the name or the port was missing.
    Every try looks up the name again, because an earlier answer may be the address of a deleted pod.

    Args:
        host: name of the pod with index 0.
        port: rendezvous port.
        seconds: time limit of the search.
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
