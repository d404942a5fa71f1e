"""The certificate of the metrics endpoint, over real TLS connections."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from finetune_operator.runtime import metrics, serving_certificate
from finetune_operator.runtime.serving_certificate import ServingCertificate, self_signed


def write(folder: Path, name: str, days: int = 90) -> None:
    folder.mkdir(exist_ok=True)
    certificate, key = self_signed(name, days)
    (folder / "tls.crt").write_bytes(certificate)
    (folder / "tls.key").write_bytes(key)


@contextlib.asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def presented(port: int) -> x509.Certificate:
    """The certificate that a new connection gets."""
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
    binary = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(binary)


def name_of(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


async def test_without_files_the_certificate_is_self_signed(tmp_path: Path) -> None:
    certificate = ServingCertificate(tmp_path / "none")
    async with listening(certificate.context) as port:
        shown = await presented(port)
    assert shown.issuer == shown.subject
    left = shown.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=364) < left < timedelta(days=366)
    assert metrics.CERTIFICATE_END._value.get() == shown.not_valid_after_utc.timestamp()


async def test_a_self_signed_certificate_is_replaced_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = ServingCertificate(tmp_path / "none")
    async with listening(certificate.context) as port:
        first = await presented(port)
        certificate.refresh()
        assert await presented(port) == first
        monkeypatch.setattr(serving_certificate, "RENEW_BEFORE", timedelta(days=366))
        certificate.refresh()
        assert await presented(port) != first


async def test_new_connections_get_a_renewed_certificate(tmp_path: Path) -> None:
    write(tmp_path / "tls", "first", days=1)
    certificate = ServingCertificate(tmp_path / "tls")
    async with listening(certificate.context) as port:
        assert name_of(await presented(port)) == "CN=first"
        write(tmp_path / "tls", "second", days=9)
        certificate.refresh()
        second = await presented(port)
    assert name_of(second) == "CN=second"
    assert metrics.CERTIFICATE_START._value.get() == second.not_valid_before_utc.timestamp()
    assert metrics.CERTIFICATE_END._value.get() == second.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("broken", ["half a renewal", "no certificate", "no file"])
async def test_files_that_cannot_be_used_leave_the_old_certificate(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "tls"
    write(folder, "first")
    certificate = ServingCertificate(folder)
    if broken == "half a renewal":
        (folder / "tls.crt").write_bytes(self_signed("second", 9)[0])
    elif broken == "no certificate":
        (folder / "tls.crt").write_text("not a certificate")
    else:
        (folder / "tls.key").unlink()
    monkeypatch.setattr(serving_certificate, "CHECK_SECONDS", 0.01)
    task = asyncio.create_task(certificate.keep_fresh())
    async with asyncio.timeout(5):
        while "cannot be used" not in caplog.text:  # noqa: ASYNC110 - a log line has no event
            await asyncio.sleep(0.01)
    assert not task.done()
    async with listening(certificate.context) as port:
        assert name_of(await presented(port)) == "CN=first"
    write(folder, "third")
    async with asyncio.timeout(5), listening(certificate.context) as port:
        while name_of(await presented(port)) != "CN=third":  # noqa: ASYNC110 - a connection is the only way to see
            await asyncio.sleep(0.01)
    task.cancel()


def test_unusable_files_at_the_start_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    write(folder, "first")
    (folder / "tls.crt").write_bytes(self_signed("second", 9)[0])
    with pytest.raises(ssl.SSLError):
        ServingCertificate(folder)
