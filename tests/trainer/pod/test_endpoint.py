import contextlib
import http.client
import json
import select
import socket
import time
from collections.abc import Iterator

import pytest

from finetune_trainer.contract import Progress, Stage, signatures
from finetune_trainer.pod import endpoint as module
from finetune_trainer.pod.endpoint import CLIENT_SECONDS, MOST_CLIENTS, Endpoint, exposition

LABELS = {"namespace": "team", "finetunejob": "tickets", "attempt": "1", "stage": "Train"}
KEY = signatures.draw_key()
NOW = Progress(stage=Stage.TRAIN, attempt=1, step=3, loss=0.25, percent=50)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(module, "CLIENT_SECONDS", 1.0)
    serving = Endpoint(0, lambda: NOW, KEY, LABELS)
    yield serving
    serving.close()


@pytest.fixture
def patient_endpoint() -> Iterator[Endpoint]:
    """An endpoint with the real time limits."""
    serving = Endpoint(0, lambda: NOW, KEY, LABELS)
    yield serving
    serving.close()


def ask(endpoint: Endpoint, path: str, method: str = "GET", key: str = KEY) -> tuple[int, bytes]:
    status, body, _ = signed_ask(endpoint, path, method, key, signatures.draw_nonce())
    return status, body


def signed_ask(
    endpoint: Endpoint, path: str, method: str, key: str, nonce: str
) -> tuple[int, bytes, str | None]:
    """Status, body and signature of the answer to a request that is signed with a key."""
    headers = {
        signatures.NONCE_HEADER: nonce,
        signatures.SIGNATURE_HEADER: signatures.sign_request(key, nonce),
    }
    link = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=5)
    with contextlib.closing(link):
        link.request(method, path, headers=headers)
        answer = link.getresponse()
        return answer.status, answer.read(), answer.headers[signatures.SIGNATURE_HEADER]


def connect(endpoint: Endpoint) -> socket.socket:
    return socket.create_connection(("127.0.0.1", endpoint.port), timeout=3 * CLIENT_SECONDS)


def drained(link: socket.socket) -> bytes:
    """The bytes that arrive before the server closes or resets the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := link.recv(65536):
            received += part
    return received


def test_progress_is_the_document_without_unknown_values(endpoint: Endpoint) -> None:
    status, body = ask(endpoint, "/progress?x=1")
    assert status == 200
    document = json.loads(body)
    assert Progress.model_validate(document) == NOW
    assert "epoch" not in document


def test_the_answer_is_signed_for_the_nonce_of_the_request(endpoint: Endpoint) -> None:
    nonce = signatures.draw_nonce()
    _, body, signature = signed_ask(endpoint, "/progress", "GET", KEY, nonce)
    assert signature == signatures.sign_answer(KEY, nonce, body)
    assert signature != signatures.sign_answer(KEY, signatures.draw_nonce(), body)
    assert signature != signatures.sign_request(KEY, nonce)


def test_requests_without_a_valid_signature_are_refused(endpoint: Endpoint) -> None:
    assert ask(endpoint, "/progress", key=signatures.draw_key())[0] == 401
    assert signed_ask(endpoint, "/progress", "GET", KEY, "")[0] == 401
    with connect(endpoint) as link:
        link.sendall(b"GET /progress HTTP/1.1\r\nHost: x\r\n\r\n")
        refused = drained(link)
    assert refused.startswith(b"HTTP/1.1 401 ")
    assert b"step" not in refused


@pytest.mark.parametrize("key", [KEY, ""], ids=["a key", "no key"])
def test_an_endpoint_without_a_key_and_labels_serves_only_its_health(key: str) -> None:
    serving = Endpoint(0, lambda: NOW, "", None)
    try:
        assert ask(serving, "/progress", key=key)[0] == 401
        assert ask(serving, "/metrics")[0] == 404
        assert ask(serving, "/healthz")[0] == 200
    finally:
        serving.close()


def test_metrics_need_no_signature(endpoint: Endpoint) -> None:
    status, body = ask(endpoint, "/metrics", key=signatures.draw_key())
    assert status == 200
    assert b"finetune_trainer_loss{" in body


def test_status_codes_of_other_paths_and_methods(endpoint: Endpoint) -> None:
    assert ask(endpoint, "/healthz") == (200, b"ok\n")
    assert ask(endpoint, "/secrets")[0] == 404
    assert ask(endpoint, "/progress", "POST")[0] == 405
    assert ask(endpoint, "/progress", "HEAD") == (200, b"")


def report(endpoint: Endpoint, body: bytes, key: str = KEY) -> tuple[int, bytes]:
    """Sends a signed report; checks the signature of the answer to an accepted report."""
    nonce = signatures.draw_nonce()
    headers = {
        signatures.NONCE_HEADER: nonce,
        signatures.SIGNATURE_HEADER: signatures.sign_report(key, nonce, body),
    }
    link = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=5)
    with contextlib.closing(link):
        link.request("POST", "/gang", body, headers)
        answer = link.getresponse()
        content = answer.read()
    if answer.status == 200:
        expected = signatures.sign_order(key, nonce, content)
        assert answer.headers[signatures.SIGNATURE_HEADER] == expected
    return answer.status, content


@pytest.fixture
def received() -> Iterator[tuple[Endpoint, list[bytes]]]:
    """An endpoint that answers reports, and the reports that it has received."""
    reports: list[bytes] = []

    def on_report(body: bytes) -> bytes:
        if body == b"malformed":
            raise ValueError
        reports.append(body)
        return b"order"

    serving = Endpoint(0, lambda: NOW, KEY, None, on_report)
    yield serving, reports
    serving.close()


def test_only_signed_reports_are_received(received: tuple[Endpoint, list[bytes]]) -> None:
    endpoint, reports = received
    assert report(endpoint, b"a report") == (200, b"order")
    assert report(endpoint, b"another", key=signatures.draw_key())[0] == 401
    assert report(endpoint, b"another", key="")[0] == 401
    assert report(endpoint, b"malformed")[0] == 400
    assert report(endpoint, b"x" * (module.REQUEST_BYTES + 1))[0] == 401
    assert ask(endpoint, "/gang")[0] == 404
    assert reports == [b"a report"]


def test_an_endpoint_of_another_pod_receives_no_reports(endpoint: Endpoint) -> None:
    assert report(endpoint, b"a report")[0] == 405


def test_metrics_have_fixed_labels_and_no_unknown_values() -> None:
    text = exposition(NOW, {**LABELS, "finetunejob": 'a"b\\c\nd'})
    labels = 'namespace="team",finetunejob="a\\"b\\\\c\\nd",attempt="1",stage="Train"'
    assert f"finetune_trainer_loss{{{labels}}} 0.25\n" in text
    assert "epoch" not in text
    assert "finetune_trainer_progress_ratio{" in text
    assert all(line.startswith(("#", "finetune_trainer_")) for line in text.splitlines())


@pytest.mark.parametrize("request_line", [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe /\r\n\r\n"])
def test_a_malformed_request_gets_status_400(endpoint: Endpoint, request_line: bytes) -> None:
    with connect(endpoint) as link:
        link.sendall(request_line)
        assert drained(link).startswith(b"HTTP/1.1 400")


def test_a_request_above_the_size_limit_is_dropped(endpoint: Endpoint) -> None:
    with connect(endpoint) as link:
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                link.sendall(b"x" * 10_000)
        assert drained(link) == b""
    assert ask(endpoint, "/healthz")[0] == 200


def test_slow_clients_are_dropped_and_others_are_served_meanwhile(endpoint: Endpoint) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(endpoint)) for _ in range(MOST_CLIENTS // 2)]
        assert ask(endpoint, "/healthz")[0] == 200
        assert all(drained(link) == b"" for link in slow)
    assert time.monotonic() - began < 5


def test_clients_above_the_limit_are_dropped_at_once_and_the_endpoint_recovers(
    patient_endpoint: Endpoint,
) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(patient_endpoint)) for _ in range(2 * MOST_CLIENTS)]
        dropped: list[socket.socket] = []
        while len(dropped) < MOST_CLIENTS:
            assert time.monotonic() - began < CLIENT_SECONDS
            dropped, _, _ = select.select(clients, [], [], 0.1)
        assert len(dropped) == MOST_CLIENTS
        received = [drained(link) for link in clients]
        assert received == [b""] * len(clients)
    assert ask(patient_endpoint, "/healthz")[0] == 200


def test_an_exception_in_the_progress_function_fails_only_that_request() -> None:
    def broken() -> Progress:
        raise RuntimeError("no")

    serving = Endpoint(0, broken, KEY, LABELS)
    try:
        assert ask(serving, "/progress")[0] == 500
        assert ask(serving, "/healthz")[0] == 200
    finally:
        serving.close()


def test_a_port_in_use_raises_oserror(endpoint: Endpoint) -> None:
    with pytest.raises(OSError, match="in use"):
        Endpoint(endpoint.port, lambda: NOW, KEY, LABELS)
