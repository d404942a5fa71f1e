"""A small client of the test's own: tests look at the API server with other eyes than the operator."""

import base64
import http.client
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

KINDS = {
    "FineTuneJob": "/apis/finetune.dev/v1alpha1/namespaces/{}/finetunejobs",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "ControllerRevision": "/apis/apps/v1/namespaces/{}/controllerrevisions",
    "Pod": "/api/v1/namespaces/{}/pods",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Event": "/apis/events.k8s.io/v1/namespaces/{}/events",
    "ResourceQuota": "/api/v1/namespaces/{}/resourcequotas",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
}


IDLE_SECONDS = 30.0
"""Connections that were idle for longer are opened again: the API server closes them after 90 s."""

MAX_PAUSE_SECONDS = 0.25
"""Longest pause between two looks of `wait_for`. Each look is a request, which takes CPU time."""


class RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


class Kube:
    """Raw calls to an API server, as whom a kubeconfig says."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        text = yaml.safe_load(kubeconfig.read_text())
        cluster, user = text["clusters"][0]["cluster"], text["users"][0]["user"]
        self.host = cluster["server"].removeprefix("https://")
        self.ca = base64.b64decode(cluster["certificate-authority-data"])
        self.tls = ssl.create_default_context(cadata=self.ca.decode())
        with tempfile.TemporaryDirectory() as folder:
            files: list[str] = []
            for name in ("client-certificate-data", "client-key-data"):
                files.append(f"{folder}/{name}")
                Path(files[-1]).write_bytes(base64.b64decode(user[name]))
            self.tls.load_cert_chain(files[0], files[1])
        self._mine = threading.local()

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        connection = self._connection()
        try:
            headers = {"Content-Type": kind, "Accept": "application/json"}
            sent = body if body is None or isinstance(body, str) else json.dumps(body)
            connection.request(method, path, sent, headers)
            answer = connection.getresponse()
            text = answer.read()
        except BaseException:
            connection.close()
            raise
        finally:
            self._mine.used = time.monotonic()
        if answer.status >= 400:
            said = json.loads(text)["message"] if text.startswith(b"{") else text.decode()
            raise RefusedError(answer.status, said)
        return json.loads(text) if text.startswith(b"{") else text.decode()

    def _connection(self) -> http.client.HTTPSConnection:
        """The connection of this thread. A closed connection opens itself again."""
        if not hasattr(self._mine, "connection"):
            self._mine.connection = http.client.HTTPSConnection(self.host, timeout=20, context=self.tls)
        elif time.monotonic() - self._mine.used > IDLE_SECONDS:
            self._mine.connection.close()
        connection: http.client.HTTPSConnection = self._mine.connection
        return connection

    def create(self, obj: dict[str, Any]) -> Any:
        namespace = obj["metadata"]["namespace"]
        return self.call("POST", KINDS[obj["kind"]].format(namespace) + "?fieldValidation=Strict", obj)

    def get(self, kind: str, namespace: str, name: str) -> Any:
        return self.call("GET", f"{KINDS[kind].format(namespace)}/{name}")

    def find(self, kind: str, namespace: str, name: str) -> Any:
        try:
            return self.get(kind, namespace, name)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Any]:
        items: list[Any] = self.call("GET", f"{KINDS[kind].format(namespace)}?labelSelector={selector}")[
            "items"
        ]
        return items

    def merge(self, kind: str, namespace: str, name: str, patch: Any, subresource: str = "") -> Any:
        path = f"{KINDS[kind].format(namespace)}/{name}{subresource and '/' + subresource}"
        return self.call("PATCH", path + "?fieldValidation=Strict", patch, "application/merge-patch+json")

    def delete(self, kind: str, namespace: str, name: str) -> None:
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self.call("DELETE", f"{KINDS[kind].format(namespace)}/{name}", body)


def wait_for(what: str, look: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Looks until there is something (not None and not False).

    Args:
        what: the awaited thing, for the error.
        look: returns the thing.
        seconds: less than 20: the time that the operator promises. Else the limit on an idle machine with
            fast cores; a busy machine has three times as long.
    """
    limit = seconds if seconds < 20 else 3 * seconds
    deadline = time.monotonic() + limit
    pause = 0.05
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit:.0f} s")
        time.sleep(pause)
        pause = min(1.2 * pause, MAX_PAUSE_SECONDS)
