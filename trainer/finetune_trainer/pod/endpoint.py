"""The HTTP endpoint of a trainer pod: /progress, /gang, /metrics, /healthz; one thread, bounded memory.

/progress and /gang answer only requests that are signed with the key of the pod (contract.signatures).
/metrics has no authentication and is off unless the config switches it on.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus

from finetune_trainer.contract import MAX_PROGRESS_BYTES, Progress, signatures
from finetune_trainer.contract.gauges import gauge_values
from finetune_trainer.pod.gang_link import PATH

REQUEST_BYTES = 8 * 1024
CLIENT_SECONDS = 5.0
"""Time limit in seconds for the request of a client, and again for the answer to the client."""
MOST_CLIENTS = 32
"""Clients at a time; the endpoint drops further connections at once."""
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
log = logging.getLogger(__name__)


class Endpoint:
    """The HTTP endpoint of a trainer pod.

    Args:
        port: the port to listen on; 0 selects a free port, see the attribute `port`.
        progress: returns the document to serve; called for every request.
        key: key of the signatures of /progress and /gang; an empty key refuses all requests.
        labels: values of GAUGE_LABELS for all metrics; None: the endpoint does not serve /metrics.
        on_report: receives the report of another supervisor of the gang and returns the answer (gang_link);
            raises ValueError if the report is malformed. None: the endpoint does not serve /gang.

    Raises:
        OSError: the port is in use.
    """

    def __init__(
        self,
        port: int,
        progress: Callable[[], Progress],
        key: str,
        labels: Mapping[str, str] | None,
        on_report: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._progress = progress
        self._key = key
        self._labels = labels
        self._on_report = on_report
        self._clients = 0
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._socket = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the endpoint and waits for its thread, at most CLIENT_SECONDS."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLIENT_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._socket, limit=REQUEST_BYTES)
        await self._stop.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= MOST_CLIENTS:
                async with asyncio.timeout(CLIENT_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    body = await reader.readexactly(_body_bytes(head)) if head.startswith(b"POST ") else b""
                writer.write(self._answer(head, body))
                async with asyncio.timeout(CLIENT_SECONDS):
                    await writer.drain()
                    writer.write_eof()
                    await reader.read(1)  # Waits until the client closes, or for the time limit.
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # The endpoint drops a client that is slow or sends no HTTP, without an answer.
        finally:
            self._clients -= 1
            writer.transport.abort()

    def _answer(self, head: bytes, body: bytes) -> bytes:
        first, _, rest = head.partition(b"\r\n")
        try:
            method, target, _ = first.decode("ascii").split(" ")
        except ValueError:
            return _response(HTTPStatus.BAD_REQUEST, _TEXT, b"bad request\n")
        path = target.partition("?")[0]
        is_report = method == "POST" and path == PATH and self._on_report is not None
        if method not in {"GET", "HEAD"} and not is_report:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET\n")
        try:
            if is_report:
                return self._order(_headers(rest), body)
            answer = self._page(path, _headers(rest))
        except Exception:
            log.exception("cannot answer %s", target[:100])
            answer = _response(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"see the log\n")
        return answer if method == "GET" else answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    def _page(self, path: str, headers: Mapping[str, str]) -> bytes:
        if path == "/healthz":
            return _response(HTTPStatus.OK, _TEXT, b"ok\n")
        if path == "/progress":
            return self._signed_progress(headers)
        if path == "/metrics" and self._labels is not None:
            return _response(HTTPStatus.OK, _PROMETHEUS, exposition(self._progress(), self._labels).encode())
        return _response(HTTPStatus.NOT_FOUND, _TEXT, b"no such page\n")

    def _order(self, headers: Mapping[str, str], body: bytes) -> bytes:
        """The signed answer to a signed report of another supervisor."""
        nonce = headers.get(signatures.NONCE_HEADER.lower(), "")
        signature = headers.get(signatures.SIGNATURE_HEADER.lower(), "")
        expected = signatures.sign_report(self._key, nonce, body)
        if self._on_report is None or not (self._key and nonce and signatures.is_valid(signature, expected)):
            return _response(
                HTTPStatus.UNAUTHORIZED, _TEXT, b"the report is not signed by a pod of the gang\n"
            )
        try:
            answer = self._on_report(body)
        except ValueError:
            return _response(HTTPStatus.BAD_REQUEST, _TEXT, b"the report is malformed\n")
        return _response(HTTPStatus.OK, _JSON, answer, signatures.sign_order(self._key, nonce, answer))

    def _signed_progress(self, headers: Mapping[str, str]) -> bytes:
        nonce = headers.get(signatures.NONCE_HEADER.lower(), "")
        signature = headers.get(signatures.SIGNATURE_HEADER.lower(), "")
        expected = signatures.sign_request(self._key, nonce)
        if not (self._key and nonce and signatures.is_valid(signature, expected)):
            return _response(HTTPStatus.UNAUTHORIZED, _TEXT, b"the request is not signed by the operator\n")
        body = self._progress().model_dump_json(by_alias=True, exclude_none=True).encode()
        body = body[:MAX_PROGRESS_BYTES]
        return _response(HTTPStatus.OK, _JSON, body, signatures.sign_answer(self._key, nonce, body))


def exposition(progress: Progress, labels: Mapping[str, str]) -> str:
    """The progress document in the text format of Prometheus; unknown values are left out."""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    lines = []
    for gauge, value in gauge_values(progress):
        name = gauge.name
        lines += [f"# HELP {name} {gauge.text}", f"# TYPE {name} gauge", f"{name}{{{pairs}}} {value!r}"]
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _body_bytes(head: bytes) -> int:
    """The length of the body of a request; 0 if unknown or more than REQUEST_BYTES."""
    length = _headers(head).get("content-length", "")
    size = int(length[:9]) if length.isdecimal() else 0
    return size if size <= REQUEST_BYTES else 0


def _headers(lines: bytes) -> dict[str, str]:
    """The headers of a request by their names in lower case."""
    pairs = (line.partition(":") for line in lines.decode("latin-1").split("\r\n"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _response(status: HTTPStatus, kind: str, body: bytes, signature: str = "") -> bytes:
    signed = f"{signatures.SIGNATURE_HEADER}: {signature}\r\n" if signature else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n{signed}Connection: close\r\n\r\n"
    )
    return head.encode() + body
