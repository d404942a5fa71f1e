"""Requests to the Kubernetes API as raw JSON: identity, time-outs, metrics, an exception for each error."""

import base64
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import client, config

from finetune_operator.names import API_VERSION, FIELD_MANAGER, KIND, PLURAL
from finetune_operator.objects import Manifest
from finetune_operator.runtime import metrics
from finetune_operator.runtime.server_clock import ServerClock

RESOURCES = {
    KIND: (API_VERSION, PLURAL),
    "Job": ("batch/v1", "jobs"),
    "ControllerRevision": ("apps/v1", "controllerrevisions"),
    "Namespace": ("v1", "namespaces"),
    "Pod": ("v1", "pods"),
    "Service": ("v1", "services"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Event": ("v1", "events"),
    "NewEvent": ("events.k8s.io/v1", "events"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "TokenReview": ("authentication.k8s.io/v1", "tokenreviews"),
    "SubjectAccessReview": ("authorization.k8s.io/v1", "subjectaccessreviews"),
}
WITHOUT_LEASE = {"Lease", "TokenReview", "SubjectAccessReview"}
"""Kinds that every replica may write. Reviews change nothing."""
CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
SILENCE_SECONDS = 70.0
"""A watch without an event for so long is restarted. Bookmarks come every minute, but not for a kind of which
no object was written since the last bookmark."""
MAX_REASON_CHARS = 600
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WRITES = {"create", "apply", "update", "patch", "delete"}
METHODS = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "apply": "PATCH",
    "delete": "DELETE",
}
CONTENT_TYPES = {"apply": "application/apply-patch+yaml", "patch": "application/merge-patch+json"}


class ApiError(Exception):
    """A request that failed. The message names the verb and the resource and quotes the API server."""


class RefusedError(ApiError):
    """The request is not allowed or not valid (RBAC, admission, quota, validation): a person must act."""


class ConflictError(ApiError):
    """The object has changed since it was read."""


class ExistsError(ApiError):
    """An object with the name exists."""


class MissingError(ApiError):
    """The object does not exist."""


class TooLargeError(ApiError):
    """The answer has more bytes than the caller accepts."""


class ExpiredError(ApiError):
    """The version of the list or watch is too old; the kind must be listed again (410)."""


class UnavailableError(ApiError):
    """The API server cannot answer now; `seconds` is the wait that it asked for, else 0."""

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class SilentError(UnavailableError):
    """A watch had no event for a while: no object changed, or the connection is dead."""


class LeaseLostError(ApiError):
    """This process is no longer the leader and must not write."""


class Transport:
    """Sends requests to the Kubernetes API with the credentials of one client.

    Args:
        api: the client; see `connect`.
        seconds_left: returns the seconds for which this process may still write; 0 or less: no write.
        clock: the clock that each answer corrects.
    """

    def __init__(self, api: client.ApiClient, seconds_left: Callable[[], float], clock: ServerClock) -> None:
        self.api = api
        self._seconds_left = seconds_left
        self._clock = clock

    async def request(
        self,
        verb: str,
        kind: str,
        namespace: str | None,
        name: str = "",
        *,
        subresource: str = "",
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> Manifest:
        """Sends a request and returns the JSON of the answer; see `read` for the errors."""
        text = await self.read(
            verb, kind, namespace, name, subresource=subresource, query=query, body=body, seconds=seconds
        )
        answer: Manifest = json.loads(text)
        return answer

    async def read(
        self,
        verb: str,
        kind: str,
        namespace: str | None,
        name: str = "",
        *,
        subresource: str = "",
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        seconds: float = REQUEST_SECONDS,
        max_bytes: int | None = None,
    ) -> str:
        """Sends a request and reads the whole answer.

        A write (except of the kinds in WITHOUT_LEASE) is sent only while this process leads, and times out
        before the leadership ends.

        Raises:
            ApiError: the request failed; see the subclasses.
            TooLargeError: the answer has more than `max_bytes`; the rest was not read.
        """
        request = _describe(verb, kind, namespace, name)
        if verb in WRITES and kind not in WITHOUT_LEASE:
            seconds = min(seconds, self._seconds_left())
            if seconds <= 0:
                raise LeaseLostError(f"{request}: this process is not the leader any more")
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, CONNECT_SECONDS))
        where = "/".join(part for part in (path(kind, namespace), name, subresource) if part)
        try:
            response = await self._send(verb, where, query or {}, body, timeout)
            async with response:
                data = await _body(response, max_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _count(verb, kind, "none")
            raise UnavailableError(f"{request}: {_text_of(error)}") from None
        _count(verb, kind, str(response.status))
        if data is None:
            raise TooLargeError(f"{request}: the answer has more than {max_bytes} bytes")
        if response.status >= 300:  # noqa: PLR2004 - the API server sends no redirects
            raise _error(request, response, data)
        return data.decode()

    async def stream(self, kind: str, namespace: str | None, query: dict[str, str]) -> AsyncIterator[Any]:
        """Watches a kind and yields each line until the API server ends the watch.

        Raises:
            ExpiredError: the resourceVersion is too old.
            SilentError: no line came for SILENCE_SECONDS.
            UnavailableError: the connection broke.
        """
        request = _describe("watch", kind, namespace, "")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        try:
            response = await self._send("watch", path(kind, namespace), query, None, timeout)
            async with response:
                _count("watch", kind, str(response.status))
                if response.status != 200:  # noqa: PLR2004 - OK
                    raise _error(request, response, await response.read())
                try:
                    async for line in _lines(response.content):
                        yield json.loads(line)
                except aiohttp.SocketTimeoutError as error:
                    raise SilentError(f"{request}: {_text_of(error)}") from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UnavailableError(f"{request}: {_text_of(error)}") from None

    async def _send(
        self,
        verb: str,
        where: str,
        query: dict[str, str],
        body: Manifest | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own, of several parts
    ) -> aiohttp.ClientResponse:
        configuration = self.api.configuration
        headers = {
            "Accept": "application/json",
            "Content-Type": CONTENT_TYPES.get(verb, "application/json"),
            "User-Agent": FIELD_MANAGER,
        }
        if token := await configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        wanted = urlencode({key: value for key, value in query.items() if value})
        url = f"{configuration.host}{where}" + (f"?{wanted}" if wanted else "")
        asked_at = time.monotonic()
        answer = await self.api.rest_client.request(  # type: ignore[no-untyped-call]
            METHODS[verb], url, headers=headers, body=body, _request_timeout=timeout
        )
        response: aiohttp.ClientResponse = answer.response
        self._clock.take_in(response.headers.get("Date"), asked_at)
        return response


async def connect() -> client.ApiClient:
    """A client with the pod's service account, else with the kubeconfig (KUBECONFIG or ~/.kube/config)."""
    configuration = client.Configuration()
    configuration.connection_pool_maxsize = 0
    kubeconfig = os.environ.get("KUBECONFIG")
    if kubeconfig or not (SERVICE_ACCOUNT / "token").exists():
        await config.load_kube_config(kubeconfig, client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    # With trust_env the session reads the environment and ~/.netrc in a thread, twice for each request.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.proxy = configuration.proxy or proxy_to(configuration.host)
    return client.ApiClient(configuration)


def token_lifetime() -> tuple[float, float]:
    """Unix times at which the token of the service account was issued and ends.

    Both are 0 if there is no token, or if the token has no end.
    """
    try:
        payload = (SERVICE_ACCOUNT / "token").read_text().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["iat"]), float(claims["exp"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0.0, 0.0


def open_session(api: client.ApiClient, *middlewares: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
    """A session with the credentials of `api`, for a library that sends its own requests.

    The token is read for each request, so a rotated token is used at once.
    """
    configuration = api.configuration

    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if token := await configuration.get_api_key_with_prefix("BearerToken"):
            request.headers["Authorization"] = token
        return await handler(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=api.rest_client.ssl_context),
        middlewares=(*middlewares, authorize),
        proxy=configuration.proxy,
        trust_env=False,
    )


def proxy_to(server: str) -> str | None:
    """The proxy for the URL of a server by HTTPS_PROXY, HTTP_PROXY and NO_PROXY; None: no proxy."""
    parts = urlsplit(server)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _count(verb: str, kind: str, code: str) -> None:
    metrics.API_REQUESTS.labels(verb=verb, resource=RESOURCES[kind][1], code=code).inc()


def path(kind: str, namespace: str | None) -> str:
    """The path of the objects of a kind, in a namespace or in the cluster."""
    version, plural = RESOURCES[kind]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of an answer, of any length: aiohttp's reader refuses lines larger than its buffer."""
    begun = bytearray()
    async for chunk in content.iter_any():
        *ended, rest = chunk.split(b"\n")
        for end in ended:
            begun += end
            yield bytes(begun)
            begun.clear()
        begun += rest
    if begun:
        yield bytes(begun)


async def _body(response: aiohttp.ClientResponse, max_bytes: int | None) -> bytearray | None:
    """The body of an answer; None if the body has more than `max_bytes`."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if max_bytes is not None and len(data) > max_bytes:
            response.close()
            return None
    return data


def _describe(verb: str, kind: str, namespace: str | None, name: str) -> str:
    where = f" in namespace {namespace}" if namespace else ""
    return f"{verb} {RESOURCES[kind][1]}{f' {name}' if name else ''}{where}"


def _text_of(error: Exception) -> str:
    return str(error) or type(error).__name__


def _error(request: str, response: aiohttp.ClientResponse, data: bytes | bytearray) -> ApiError:  # noqa: PLR0911 - one a class
    """The exception for an answer of 300 or more. The class of the exception decides about retries."""
    try:
        status = json.loads(data)
    except ValueError:
        status = {}
    reason = status.get("reason", "") if isinstance(status, dict) else ""
    text = status.get("message") if isinstance(status, dict) else None
    message = f"{request}: {(text or response.reason or '')[:MAX_REASON_CHARS]}"
    match response.status:
        case 404:
            return MissingError(message)
        case 409:
            return ExistsError(message) if reason == "AlreadyExists" else ConflictError(message)
        case 410:
            return ExpiredError(message)
        case 401 | 408 | 429:
            return UnavailableError(message, _retry_after(response))
        case 500 if "failed calling webhook" in message:
            return RefusedError(message)  # the status of the job names the webhook until somebody mends it
        case status if status >= 500:  # noqa: PLR2004 - server errors
            return UnavailableError(message, _retry_after(response))
        case _:
            return RefusedError(message)


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return min(60.0, float(response.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
