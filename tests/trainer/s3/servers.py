"""Test servers that are no S3 store, and the failure of the clients against a server."""

import datetime as dt
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from devcluster import pki
from finetune_trainer.config import StoreAccess
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import open_store


def failure_of(access: StoreAccess, paths: Paths, uri: str = "s3://bucket/key") -> StageFailure:
    """The failure of both clients of a store, which must have the same class and reason."""
    with pytest.raises(StageFailure) as control:
        open_store(access, "data", paths).head(uri)
    with pytest.raises(StageFailure) as bulk:
        open_store(access, "data", paths).read_range(uri, 0, 1)
    assert (control.value.failure, control.value.reason) == (bulk.value.failure, bulk.value.reason)
    assert access.endpoint in control.value.message
    return control.value


@contextmanager
def answering(status: int, location: str = "") -> Iterator[tuple[str, list[str]]]:
    """A server that always gives the same answer: its endpoint, and the paths of the requests."""
    seen: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_GET  # noqa: N815 - the names that the base class calls

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


@contextmanager
def tls_server(folder: Path, *, days: int, name: str) -> Iterator[tuple[str, bytes]]:
    """A TLS server with a certificate for a name and a number of days: endpoint and CA certificate."""
    authority = pki.new_authority("test")
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    subject: x509.GeneralName = (
        x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=9))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None: ...

    with Quiet(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}", pki.certificate_pem(authority.certificate)
        server.shutdown()
        thread.join()
