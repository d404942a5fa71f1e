"""The HTTP endpoint of a trainer pod: /progress, /metrics and /healthz, in one thread and bounded memory."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from finetune_trainer.contract import MAX_PROGRESS_BYTES, Progress

REQUEST_BYTES = 8 * 1024
CLIENT_SECONDS = 5.0
"""Time limit in seconds for the request of a client, and again for the answer to the client."""
MOST_CLIENTS = 32
"""Clients at a time; the endpoint drops further connections at once."""
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "finetune_trainer_"
LABELS = ("namespace", "finetunejob", "attempt", "stage")


@dataclass(frozen=True)
class Gauge:
    """A gauge of /metrics that shows one field of Progress."""

    name: str
    """Name without PREFIX."""
    field: str
    text: str
    factor: float = 1.0
    """The value of the gauge divided by the value of the field."""


GAUGES = (
    Gauge("progress_ratio", "percent", "Share of the stage that is done, 0 to 1.", factor=0.01),
    Gauge("rows", "rows", "Rows of the data that Prepare has read, tokenised or stored."),
    Gauge("tokens", "tokens", "Tokens of the rows that Prepare has tokenised."),
    Gauge("step", "step", "Optimizer steps done."),
    Gauge("planned_steps", "total_steps", "Optimizer steps of the whole run."),
    Gauge("epoch", "epoch", "Passes over the training rows, with a fractional part."),
    Gauge("loss", "loss", "Training loss at the last step."),
    Gauge("learning_rate", "learning_rate", "Learning rate at the last step."),
    Gauge("gradient_norm", "gradient_norm", "Norm of all gradients before clipping at the last step."),
    Gauge("validation_score", "validation", "Primary metric on the validation rows, newest value."),
    Gauge("tokens_per_second", "tokens_per_second", "Throughput of all processes together, in tokens."),
    Gauge("samples_per_second", "samples_per_second", "Throughput of all processes together, in rows."),
    Gauge("eta_seconds", "eta_seconds", "Estimated time to the end of the stage."),
    Gauge("peak_memory_bytes", "peak_memory_bytes", "Peak memory of rank 0 (GPU memory on GPUs)."),
    Gauge("heartbeat_timestamp_seconds", "heartbeat", "Unix time of the last heartbeat of rank 0."),
)

log = logging.getLogger(__name__)


class Endpoint:
    """The HTTP endpoint of a trainer pod.

    Args:
        port: the port to listen on; 0 selects a free port, see the attribute `port`.
        progress: returns the document to serve; called for every request.
        labels: constant labels of all metrics.

    Raises:
        OSError: the port is in use.
    """

    def __init__(self, port: int, progress: Callable[[], Progress], labels: Mapping[str, str]) -> None:
        self._progress = progress
        self._labels = labels
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
                writer.write(self._answer(head))
                async with asyncio.timeout(CLIENT_SECONDS):
                    await writer.drain()
                    writer.write_eof()
                    await reader.read(1)  # Waits until the client closes, or for the time limit.
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # The endpoint drops a client that is slow or sends no HTTP, without an answer.
        finally:
            self._clients -= 1
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        try:
            method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        except ValueError:
            return _response(HTTPStatus.BAD_REQUEST, _TEXT, b"bad request\n")
        if method not in {"GET", "HEAD"}:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET\n")
        try:
            answer = self._page(target.partition("?")[0])
        except Exception:
            log.exception("cannot answer %s", target[:100])
            answer = _response(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"see the log\n")
        return answer if method == "GET" else answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    def _page(self, path: str) -> bytes:
        if path == "/healthz":
            return _response(HTTPStatus.OK, _TEXT, b"ok\n")
        if path == "/progress":
            body = self._progress().model_dump_json(by_alias=True, exclude_none=True).encode()
            return _response(HTTPStatus.OK, _JSON, body[:MAX_PROGRESS_BYTES])
        if path == "/metrics":
            return _response(HTTPStatus.OK, _PROMETHEUS, exposition(self._progress(), self._labels).encode())
        return _response(HTTPStatus.NOT_FOUND, _TEXT, b"try /progress, /metrics, /healthz\n")


def exposition(progress: Progress, labels: Mapping[str, str]) -> str:
    """The progress document in the text format of Prometheus; unknown values are left out."""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    lines = []
    for gauge in GAUGES:
        value = getattr(progress, gauge.field)
        if value is None:
            continue
        name, shown = f"{PREFIX}{gauge.name}", value if gauge.factor == 1 else value * gauge.factor
        lines += [f"# HELP {name} {gauge.text}", f"# TYPE {name} gauge", f"{name}{{{pairs}}} {shown!r}"]
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _response(status: HTTPStatus, kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
