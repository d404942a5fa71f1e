import socket
import ssl
import threading
from pathlib import Path

import pytest

from devcluster import pki


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    made = pki.new_authority("test")
    (tmp_path / "ca.crt").write_bytes(pki.certificate_pem(made.certificate))
    return made


def handshake(folder: Path, server: pki.Credential, client: pki.Credential, name: str) -> dict[str, object]:
    """Connect under strict checks on both ends, and return the client's certificate as the server saw it."""
    pki.write(folder, "server", server)
    pki.write(folder, "client", client)
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
    accepting.load_cert_chain(folder / "server.crt", folder / "server.key")
    accepting.verify_mode = ssl.CERT_REQUIRED
    connecting = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    connecting.verify_flags |= ssl.VERIFY_X509_STRICT
    connecting.load_cert_chain(folder / "client.crt", folder / "client.key")
    here, there = socket.socketpair()
    seen: list[dict[str, object]] = []

    def accept() -> None:
        try:
            with accepting.wrap_socket(there, server_side=True) as secure:
                seen.append(dict(secure.getpeercert() or {}))
                secure.recv(1)
        except OSError:
            there.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        with connecting.wrap_socket(here, server_hostname=name) as secure:
            secure.send(b"x")
    finally:
        here.close()
        thread.join()
    return seen[0]


@pytest.mark.parametrize("name", ["minio.storage.svc", "10.1.2.3"])
def test_a_server_is_trusted_under_each_of_its_names(
    tmp_path: Path, authority: pki.Authority, name: str
) -> None:
    server = pki.issue(authority, "server", names=("minio.storage.svc", "10.1.2.3"))
    client = pki.issue(authority, "system:node:one", "system:nodes")
    subject = handshake(tmp_path, server, client, name)["subject"]
    assert subject == ((("organizationName", "system:nodes"),), (("commonName", "system:node:one"),))


def test_another_name_is_not_trusted(tmp_path: Path, authority: pki.Authority) -> None:
    server, client = pki.issue(authority, "server", names=("a.test",)), pki.issue(authority, "client")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'b\.test'"):
        handshake(tmp_path, server, client, "b.test")


def test_another_authority_is_not_trusted(tmp_path: Path, authority: pki.Authority) -> None:
    server = pki.issue(pki.new_authority("test"), "server", names=("a.test",))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server, pki.issue(authority, "client"), "a.test")


def test_a_key_is_for_its_owner_alone(tmp_path: Path, authority: pki.Authority) -> None:
    pki.write(tmp_path, "server", pki.issue(authority, "server"))
    assert (tmp_path / "server.key").stat().st_mode & 0o077 == 0
