"""A real S3 server on the loopback, for tests of everything that reads and writes buckets."""

import http.client
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Literal, assert_never

from devcluster import binaries, pki, processes
from devcluster.controlplane import free_ports
from devcluster.places import write_whole

Kind = Literal["minio", "versitygw"]
_ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server.

    Attributes:
        kind: which one.
        endpoint: its URL, such as `https://127.0.0.1:40001`.
        access_key: the root user's name.
        secret_key: the root user's secret.
        ca_file: certificate of the authority that signed its certificate; None without TLS.
        data: folder it stores under, one folder a bucket.
        pid: its process, for tests that stop or kill it.
    """

    kind: Kind
    endpoint: str
    access_key: str
    secret_key: str
    ca_file: Path | None
    data: Path
    pid: int


@contextmanager
def object_store(directory: Path, kind: Kind = "minio", *, tls: bool = True) -> Iterator[ObjectStore]:
    """Run an S3 server with no buckets, and yield how to reach it.

    It ends with the `with` block, and with this process however that ends. Region: us-east-1.

    Args:
        directory: an empty or new folder for its data, certificates and log; the caller removes it.
        kind: which server; two, because what only one of them accepts is not S3.
        tls: serve HTTPS with a certificate for 127.0.0.1 and localhost, by an authority made for this server.

    Raises:
        DevclusterError: it does not come up; with the end of its log.
    """
    directory = directory.resolve()
    data, certificates = directory / "data", directory / "certificates"
    users = directory / "users"
    for folder in (data, users):
        folder.mkdir(parents=True, exist_ok=True)
    port = free_ports(1)[0]
    if tls:
        authority = pki.new_authority("object-store")
        write_whole(directory / "ca.crt", pki.certificate_pem(authority.certificate))
        server = pki.issue(authority, "object-store", names=(_ADDRESS, "localhost"))
        write_whole(certificates / "private.key", server.key, mode=0o600)
        write_whole(certificates / "public.crt", server.certificate)
    access_key, secret_key = new_keys()
    environment = {
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_BROWSER": "off",
        "ROOT_ACCESS_KEY": access_key,
        "ROOT_SECRET_KEY": secret_key,
    }
    log = directory / f"{kind}.log"
    process = processes.start_owned(
        _command(kind, data, users, certificates, port, tls=tls), log, environment
    )
    try:
        ca_file = directory / "ca.crt" if tls else None
        processes.await_answer(lambda: _serves(port, ca_file), process, log)
        yield ObjectStore(
            kind=kind,
            endpoint=f"{'https' if tls else 'http'}://{_ADDRESS}:{port}",
            access_key=access_key,
            secret_key=secret_key,
            ca_file=ca_file,
            data=data,
            pid=process.pid,
        )
    finally:
        processes.end_owned(process)


def new_keys() -> tuple[str, str]:
    """Return a random access key and secret key of a root user."""
    return f"root-{secrets.token_hex(4)}", secrets.token_urlsafe(24)


def _serves(port: int, ca_file: Path | None) -> bool:
    """Tell whether the server answers as a whole: MinIO listens first and says 503 for a while."""
    connection = (
        http.client.HTTPSConnection(
            _ADDRESS, port, timeout=2.0, context=ssl.create_default_context(cafile=ca_file)
        )
        if ca_file
        else http.client.HTTPConnection(_ADDRESS, port, timeout=2.0)
    )
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < HTTPStatus.INTERNAL_SERVER_ERROR
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _command(kind: Kind, data: Path, users: Path, certificates: Path, port: int, *, tls: bool) -> list[str]:
    binary = str(binaries.path(kind))
    address = f"{_ADDRESS}:{port}"
    match kind:
        case "minio":
            return [
                binary,
                "server",
                f"--address={address}",
                f"--certs-dir={certificates}",
                "--quiet",
                str(data),
            ]
        case "versitygw":
            pair = [f"--cert={certificates}/public.crt", f"--key={certificates}/private.key"] if tls else []
            return [binary, f"--port={address}", f"--iam-dir={users}", *pair, "posix", str(data)]
        case _:
            assert_never(kind)
