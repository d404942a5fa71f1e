"""The exception for each answer of the API server, and no write without the Lease. Real HTTP."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from kubernetes.aio import client
from kubernetes.aio.config import incluster_config

from devcluster import pki
from finetune_operator.runtime import api_client
from finetune_operator.runtime.api_client import (
    ApiError,
    ConflictError,
    ExistsError,
    ExpiredError,
    LeaseLostError,
    MissingError,
    RefusedError,
    SilentError,
    Transport,
    UnavailableError,
)
from finetune_operator.runtime.server_clock import ServerClock
from tests.operator.kubeconfig import write_kubeconfig

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.answer: Handler = self._ok
        self.port = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.answer(request)

    async def _ok(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


@pytest.fixture
async def caller(server: Server) -> AsyncIterator[Callable[[float], Transport]]:
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.port}")
    configuration.api_key["BearerToken"] = "bearer secret-token"
    api = client.ApiClient(configuration)
    yield lambda seconds: Transport(api, lambda: seconds, ServerClock())
    await api.close()  # type: ignore[no-untyped-call]


Caller = Callable[[float], Transport]


def answering(status: int, reason: str = "", headers: dict[str, str] | None = None) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        said = {"kind": "Status", "reason": reason, "message": "because"}
        return web.json_response(said, status=status, headers=headers)

    return answer


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (400, "BadRequest", RefusedError),
        (401, "Unauthorized", UnavailableError),
        (403, "Forbidden", RefusedError),
        (404, "NotFound", MissingError),
        (409, "Conflict", ConflictError),
        (409, "AlreadyExists", ExistsError),
        (410, "Expired", ExpiredError),
        (413, "RequestEntityTooLarge", RefusedError),
        (422, "Invalid", RefusedError),
        (429, "TooManyRequests", UnavailableError),
        (500, "InternalError", UnavailableError),
        (503, "ServiceUnavailable", UnavailableError),
        (504, "Timeout", UnavailableError),
    ],
)
async def test_each_refusal_raises_its_exception_with_a_message(
    server: Server, caller: Caller, status: int, reason: str, error: type[ApiError]
) -> None:
    server.answer = answering(status, reason)
    with pytest.raises(error, match="create jobs in namespace ns: because") as raised:
        await caller(60).request("create", "Job", "ns", body={})
    assert type(raised.value) is error
    assert len(server.requests) == 1


async def test_a_webhook_that_cannot_be_called_refuses_the_request(server: Server, caller: Caller) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        message = (
            'Internal error occurred: failed calling webhook "jobs.example": Post "https://hook.example": EOF'
        )
        return web.json_response({"reason": "InternalError", "message": message}, status=500)

    server.answer = answer
    with pytest.raises(RefusedError, match=r'failed calling webhook "jobs\.example"'):
        await caller(60).request("create", "Job", "ns", body={})


async def test_retry_after_is_kept_in_the_exception(server: Server, caller: Caller) -> None:
    server.answer = answering(429, headers={"Retry-After": "7"})
    with pytest.raises(UnavailableError) as raised:
        await caller(60).request("get", "Job", "ns", "x")
    assert raised.value.seconds == 7


async def test_an_error_without_a_status_object_is_classified(server: Server, caller: Caller) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=502, text="<html>bad gateway")

    server.answer = answer
    with pytest.raises(UnavailableError, match="list pods: Bad Gateway"):
        await caller(60).request("list", "Pod", None)


async def test_long_error_messages_are_cut(server: Server, caller: Caller) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "x" * 100_000}, status=403)

    server.answer = answer
    with pytest.raises(RefusedError) as raised:
        await caller(60).request("list", "Pod", None)
    assert len(str(raised.value)) < 1000


async def test_a_refused_connection_is_unavailable(caller: Caller, server: Server) -> None:
    caller(60).api.configuration.host = "http://127.0.0.1:1"
    with pytest.raises(UnavailableError, match="get jobs x in namespace ns"):
        await caller(60).request("get", "Job", "ns", "x")
    assert server.requests == []


@pytest.mark.parametrize("verb", ["create", "apply", "update", "patch", "delete"])
async def test_no_write_is_sent_without_the_lease(server: Server, caller: Caller, verb: str) -> None:
    with pytest.raises(LeaseLostError):
        await caller(0).request(verb, "Job", "ns", "x", body={})
    assert server.requests == []


async def test_a_read_needs_no_lease(server: Server, caller: Caller) -> None:
    await caller(0).request("get", "Job", "ns", "x")
    await caller(0).request("create", "Lease", "ns", body={})
    assert len(server.requests) == 2


async def test_a_write_does_not_outlast_the_lease(server: Server, caller: Caller) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3)
        return web.json_response({})

    server.answer = answer
    with pytest.raises(UnavailableError):
        await caller(0.2).request("create", "Job", "ns", body={})


async def test_requests_carry_token_user_agent_and_content_type(server: Server, caller: Caller) -> None:
    await caller(60).request("apply", "Service", "ns", "s", body={"a": 1}, query={"force": "true", "x": ""})
    await caller(60).request("patch", "Job", "ns", "j", body={})
    apply, patch = server.requests
    assert apply.method == patch.method == "PATCH"
    assert apply.headers["Content-Type"] == "application/apply-patch+yaml"
    assert patch.headers["Content-Type"] == "application/merge-patch+json"
    assert apply.headers["Authorization"] == "bearer secret-token"
    assert apply.headers["User-Agent"] == "finetune-operator"
    assert apply.path_qs == "/api/v1/namespaces/ns/services/s?force=true"
    assert patch.path == "/apis/batch/v1/namespaces/ns/jobs/j"


async def test_a_silent_watch_is_ended(
    server: Server, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(json.dumps({"type": "ADDED", "object": {}}).encode() + b"\n")
        await asyncio.sleep(5)
        return response

    server.answer = answer
    monkeypatch.setattr(api_client, "SILENCE_SECONDS", 0.2)
    stream = caller(60).stream("Pod", None, {})
    assert (await anext(stream))["type"] == "ADDED"
    with pytest.raises(SilentError, match="watch pods"):
        await anext(stream)


async def test_a_watch_event_may_have_any_length(server: Server, caller: Caller) -> None:
    """A tenant's object may have some MB, and six times that in JSON."""
    events = [
        {"type": "ADDED", "object": {"size": size, "text": "x" * size}} for size in (3, 9_000_000, 5, 0)
    ]

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"\n".join(json.dumps(event).encode() for event in events) + b"\n")
        return response

    server.answer = answer
    assert [event async for event in caller(60).stream("Pod", None, {})] == events


async def test_a_broken_connection_ends_a_watch(server: Server, caller: Caller) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type": "ADDED"}\n{"type": "MODI')
        return response

    server.answer = answer
    stream = caller(60).stream("Pod", None, {})
    assert await anext(stream) == {"type": "ADDED"}
    with pytest.raises(UnavailableError, match="watch pods"):
        await anext(stream)


async def test_a_session_for_a_library_reads_the_token_for_each_request(
    server: Server, caller: Caller
) -> None:
    api = caller(60).api
    tokens = iter(("bearer old", "bearer new"))

    def rotate(configuration: client.Configuration) -> None:
        configuration.api_key["BearerToken"] = next(tokens)

    api.configuration.refresh_api_key_hook = rotate
    async with api_client.open_session(api) as session:
        for _ in range(2):
            async with session.get(f"{api.configuration.host}/apis"):
                pass
    assert [request.headers["Authorization"] for request in server.requests] == ["bearer old", "bearer new"]


@pytest.mark.parametrize(("excepted", "requests"), [("elsewhere.example", 1), (".example", 0)])
async def test_the_api_server_is_reached_by_the_proxy_of_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excepted: str, requests: int
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, "http://api.example")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("no_proxy", excepted)
    api = await api_client.connect()
    with contextlib.suppress(UnavailableError):
        await Transport(api, lambda: 5.0, ServerClock()).request("get", "Job", "team", "one", seconds=2)
    await api.close()  # type: ignore[no-untyped-call]
    assert [request.host for request in server.requests] == ["api.example"] * requests


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_every_answer_corrects_the_clock(server: Server, caller: Caller, status: int) -> None:
    clock = ServerClock()
    transport = Transport(caller(60).api, lambda: 60.0, clock)
    server.answer = answering(status, headers={"Date": "Fri, 15 Jan 2027 08:00:00 GMT"})
    with contextlib.suppress(ApiError):
        await transport.request("get", "Job", "team", "one")

    assert clock.now().isoformat().startswith("2027-01-15T08:00:0")


class LaterClock(datetime):
    """The wall clock, two minutes ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime.now(tz) + timedelta(minutes=2)


async def test_a_token_that_the_kubelet_has_replaced_is_used_within_a_minute(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chart gives the operator a token that expires; the kubelet replaces the file long before."""
    (tmp_path / "ca.crt").write_bytes(pki.certificate_pem(pki.new_authority("test").certificate))
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.setattr(api_client, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    load = incluster_config.InClusterConfigLoader._load_config

    def load_without_tls(loader: incluster_config.InClusterConfigLoader) -> None:
        load(loader)
        loader.host = loader.host.replace("https:", "http:")

    monkeypatch.setattr(incluster_config.InClusterConfigLoader, "_load_config", load_without_tls)
    api = await api_client.connect()
    transport = Transport(api, lambda: 5, ServerClock())

    async def sent() -> set[str]:
        """The tokens of one request of the operator and of one request of kopf."""
        server.requests.clear()
        await transport.request("get", "Pod", "team-a", "x")
        async with api_client.open_session(api) as session, session.get(f"{api.configuration.host}/apis"):
            pass
        return {request.headers["Authorization"] for request in server.requests}

    try:
        assert await sent() == {"bearer first"}
        token.write_text("second")
        assert await sent() == {"bearer first"}
        later = SimpleNamespace(datetime=LaterClock, timedelta=timedelta)
        monkeypatch.setattr(incluster_config, "datetime", later)
        assert await sent() == {"bearer second"}
    finally:
        await api.close()  # type: ignore[no-untyped-call]


def web_token(claims: object) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.signature"


@pytest.mark.parametrize(
    ("token", "lifetime"),
    [
        pytest.param(web_token({"iat": 1000, "exp": 1600}), (1000, 1600), id="projected token"),
        pytest.param(web_token({"iss": "kubernetes/serviceaccount"}), (0, 0), id="token without an end"),
        pytest.param(web_token([]), (0, 0), id="claims of another form"),
        pytest.param("opaque", (0, 0), id="no JSON web token"),
        pytest.param(None, (0, 0), id="no token"),
    ],
)
def test_the_lifetime_of_the_token_is_read_from_its_claims(
    token: str | None, lifetime: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_client, "SERVICE_ACCOUNT", tmp_path)
    if token is not None:
        (tmp_path / "token").write_text(token)
    assert api_client.token_lifetime() == lifetime
