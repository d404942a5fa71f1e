"""The few calls of the Kubernetes API that bringing a cluster up needs, without starting a kubectl each."""

import http.client
import json
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from devcluster.places import DevclusterError

_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Api:
    """An API server and who calls it.

    Attributes:
        host: address it listens on.
        port: its port.
        ca: file with its authority's certificate.
        certificate: file with the caller's certificate.
        key: file with the caller's key.
    """

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path


def call(api: Api, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
    """Call the API once and return its parsed answer, or its text where that is no JSON.

    Raises:
        OSError: it is not reached (yet).
        DevclusterError: it refuses.
    """
    tls = ssl.create_default_context(cafile=str(api.ca))
    tls.load_cert_chain(api.certificate, api.key)
    connection = http.client.HTTPSConnection(api.host, api.port, timeout=_TIMEOUT_SECONDS, context=tls)
    try:
        payload = None if body is None else json.dumps(body).encode()
        connection.request(method, path, body=payload, headers={"Content-Type": content_type})
        answer = connection.getresponse()
        text = answer.read().decode()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raise DevclusterError(
            f"the API server answered {answer.status} to {method} {path}: {text.strip()[:600]}"
        )
    if answer.headers.get_content_type() == "application/json":
        return json.loads(text)
    return text


def is_ready(api: Api) -> bool:
    """Tell whether the API server is up and says it is ready."""
    try:
        return bool(call(api, "GET", "/readyz") == "ok")
    except (OSError, DevclusterError):
        return False


def apply(api: Api, manifest: dict[str, Any]) -> None:
    """Create an object or make it as given (server-side apply; JSON is YAML)."""
    query = "?fieldManager=devcluster&force=true"
    call(api, "PATCH", path(manifest) + query, manifest, content_type="application/apply-patch+yaml")


def path(manifest: dict[str, Any]) -> str:
    """Return the API path of an object; its kind's plural has to be regular, as those used here are."""
    version, metadata = manifest["apiVersion"], manifest["metadata"]
    group = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{group}{namespace}/{manifest['kind'].lower()}s/{metadata['name']}"
