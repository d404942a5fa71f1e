"""A receiver of notifications: a real HTTP server of the test, which checks the signatures."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from finetune_operator.runtime.webhook import decode_key, sign

KEY = "whsec_" + base64.b64encode(b"k" * 32).decode()
"""Signing key of every receiver."""


class Receiver:
    """Notes each notification. `statuses` are the next answers, which wait until `answers` is set.

    Args:
        host: address of this machine that the server listens on.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.answers = threading.Event()
        self.answers.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append((headers, body))
                receiver.answers.wait(60)
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a killed operator
        self.url = f"http://{host}:{self.server.server_port}/"

    def events(self) -> list[dict[str, Any]]:
        """The CloudEvents, after a check of their signatures."""
        for headers, body in self.received:
            signature = sign(
                [decode_key(KEY)], headers["webhook-id"], int(headers["webhook-timestamp"]), body
            )
            assert headers["webhook-signature"] == signature
            assert headers["webhook-id"] == json.loads(body)["id"]
        return [json.loads(body) for _, body in self.received]


@contextmanager
def receiving(host: str = "127.0.0.1") -> Iterator[Receiver]:
    """Runs a receiver for a while."""
    receiver = Receiver(host)
    thread = threading.Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.answers.set()
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()
