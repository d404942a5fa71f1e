import ssl

import pytest
from urllib3.exceptions import NewConnectionError, ProtocolError

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.storefaults import classify

HTTPS = "https://store.example"


def classified(text: str, endpoint: str = HTTPS) -> StageFailure:
    return classify(OSError(text), doing="read s3://data/train.jsonl", endpoint=endpoint)


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        ("tcp connect error: Connection refused (os error 111)", "StorageUnreachable", "refused"),
        ("dns error: failed to lookup address", "StorageUnreachable", "resolved"),
        ("[Errno -2] Name or service not known", "StorageUnreachable", "resolved"),
        ("HTTP error: operation timed out", "StorageUnreachable", "in time"),
        ("Read timed out. (read timeout=30)", "StorageUnreachable", "in time"),
        ("Connection reset by peer", "StorageUnreachable", "dropped"),
        ("Remote end closed connection without response", "StorageUnreachable", "dropped"),
        ("HTTP error: request or response body error", "StorageUnreachable", "dropped"),
        ("something else", "StorageUnreachable", "something else"),
        ("invalid peer certificate: Expired", "StorageCertificate", "expired"),
        ("invalid peer certificate: UnknownIssuer", "StorageCertificate", "authority is unknown"),
        ("received corrupt message of type InvalidContentType", "StorageCertificate", "does not speak TLS"),
        ("ConnectError('tcp connect error', 127.0.0.1:1, Os)", "StorageRedirect", "another host"),
        (
            "Server returned non-2xx status code: 403 Forbidden: <Error><Code>AccessDenied</Code></Error>",
            "StorageDenied",
            "AccessDenied",
        ),
        ("Server returned non-2xx status code: 503 Service Unavailable: ", "StorageError", "HTTP 503"),
    ],
)
def test_the_text_of_an_exception_becomes_a_reason(text: str, reason: str, says: str) -> None:
    failure = classified(text)
    assert failure.reason == reason
    assert says in failure.message
    assert HTTPS in failure.message


@pytest.mark.parametrize("name", ["proxy", "dns", "timeout", "refused", "127.0.0.1:1"])
def test_the_name_of_an_object_does_not_affect_the_reason(name: str) -> None:
    text = f"Error performing GET https://store.example/data/{name}.jsonl in 1 ms - broken pipe: closed"
    assert "dropped" in classified(text).message


def test_a_port_that_begins_with_1_is_no_redirect() -> None:
    assert (
        classified("ConnectError('tcp connect error', 127.0.0.1:19000, refused)").reason
        == "StorageUnreachable"
    )


def test_the_causes_of_an_exception_are_classified() -> None:
    broken = ProtocolError("Connection broken")
    broken.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    assert "dropped" in classify(broken, doing="x", endpoint=HTTPS).message
    refused = NewConnectionError(None, "Failed to establish a new connection")  # type: ignore[arg-type]
    refused.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert "refused" in classify(refused, doing="x", endpoint=HTTPS).message
    assert classify(ssl.SSLError("odd"), doing="x", endpoint=HTTPS).reason == "StorageCertificate"


def test_the_hint_for_a_dropped_http_connection_names_https() -> None:
    assert "https" in classified("Connection reset by peer", "http://store.example").hint
    assert "https" not in classified("Connection reset by peer").hint


def test_a_stage_failure_is_returned_unchanged() -> None:
    failure = StageFailure(FailureClass.USER_CONFIG, "UriInvalid", "message")
    assert classify(failure, doing="x", endpoint=HTTPS) is failure


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [(HTTPS, 443), ("http://store.example", 80), ("https://minio.storage:9000", 9000)],
)
def test_the_hint_for_an_unreachable_store_names_the_port_of_the_network_policy(
    endpoint: str, port: int
) -> None:
    hint = classified("HTTP error: operation timed out", endpoint).hint
    assert f"allows port {port}," in hint
    assert "settings.stores.*.egress.ports" in hint


def test_the_hint_for_an_unknown_name_names_the_dns_settings() -> None:
    assert "settings.dns.podLabels" in classified("[Errno -2] Name or service not known").hint
    assert "settings.dns" not in classified("Connection refused").hint
