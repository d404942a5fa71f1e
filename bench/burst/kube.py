"""The client of both sides: it writes with many requests at once and sees Jobs the moment they exist."""

import base64
import json
import ssl
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yaml

CONNECTIONS = 16
"""Requests under way at once, for both sides; more only queue in the API server."""
_METADATA = "application/json;as={};g=meta.k8s.io;v=v1"
_LINE_BYTES = 2**20


class KubeError(Exception):
    """The API server refused; the text is what it said."""


@dataclass(frozen=True)
class Kube:
    """An API server, as its administrator."""

    server: str
    session: aiohttp.ClientSession

    async def call(
        self, method: str, path: str, body: Any = None, query: dict[str, str] | None = None
    ) -> Any:
        """One request and its answer.

        Raises:
            KubeError: anything but success.
        """
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        async with self.session.request(method, url, json=body) as answer:
            said = await answer.read()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise KubeError(f"{method} {path}: {answer.status} {said.decode()[:600]}")
            return json.loads(said)

    async def appearing(
        self, path: str, selector: str, watching: Callable[[], None]
    ) -> AsyncGenerator[dict[str, Any]]:
        """The metadata of objects that come to be; the API server is asked for no more of them than that.

        Args:
            path: where they are.
            selector: by labels.
            watching: called when nothing is missed any more.
        """
        listed = await self.call("GET", path, query={"limit": "1"})
        query = {
            "watch": "true",
            "labelSelector": selector,
            "resourceVersion": listed["metadata"]["resourceVersion"],
        }
        headers = {"Accept": _METADATA.format("PartialObjectMetadata")}
        # Silence is no failure here: whoever waits for the objects has a limit of its own.
        quiet = aiohttp.ClientTimeout(total=None)
        url = f"{self.server}{path}?{urlencode(query)}"
        async with self.session.get(url, headers=headers, timeout=quiet) as answer:
            if answer.status != HTTPStatus.OK:
                raise KubeError(f"watch {path}: {answer.status} {(await answer.text())[:600]}")
            watching()
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ADDED":
                    yield event["object"]["metadata"]


@asynccontextmanager
async def connect(kubeconfig: Path) -> AsyncIterator[Kube]:
    """Connects as a kubeconfig with a client certificate says."""
    server, tls = _identity(kubeconfig)
    # One more for the watch.
    connector = aiohttp.TCPConnector(ssl=tls, limit=CONNECTIONS + 1)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=_LINE_BYTES) as session:
        yield Kube(server, session)


def kubeconfig_as(kubeconfig: Path, token: str, target: Path) -> None:
    """Writes a kubeconfig for the same API server that identifies itself by a token."""
    config = yaml.safe_load(kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    target.touch(mode=0o600)
    target.write_text(yaml.safe_dump(config))


def _identity(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """Where a kubeconfig's API server is, and TLS with the client certificate in it."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "crt", Path(folder) / "key"
        certificate.write_bytes(base64.b64decode(user["client-certificate-data"]))
        key.write_bytes(base64.b64decode(user["client-key-data"]))
        tls.load_cert_chain(certificate, key)
    return str(cluster["server"]), tls
