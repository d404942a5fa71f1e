import datetime as dt
import hashlib
import http.server
import ipaddress
import os
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
from minio import Minio

from devcluster import pki
from devcluster.objectstore import ObjectStore
from finetune_trainer.config import StoreAccess
from finetune_trainer.failures import StageFailure
from finetune_trainer.places import Places
from finetune_trainer.s3.store import RANGE_BYTES, Store, open_store
from tests.trainer.storage import add_user, give_authority, give_keys


def failure_of(access: StoreAccess, places: Places, uri: str = "s3://bucket/key") -> StageFailure:
    """Both clients of a store fail in the same way."""
    with pytest.raises(StageFailure) as asked:
        open_store(access, "data", places).head(uri)
    with pytest.raises(StageFailure) as moved:
        open_store(access, "data", places).read_range(uri, 0, 1)
    assert (asked.value.failure, asked.value.reason) == (moved.value.failure, moved.value.reason)
    assert access.endpoint in asked.value.message
    return asked.value


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their pauses."""
    monkeypatch.setattr("finetune_trainer.s3.store.time.sleep", lambda _: None)


def test_a_small_object_comes_back_as_written(store: Store, bucket: str) -> None:
    uri = f"s3://{bucket}/a/b c/ü.json"
    sent = store.write(uri, b"{}")
    assert store.read(uri) == b"{}"
    assert sent.digest == "sha256:" + hashlib.sha256(b"{}").hexdigest()


def test_a_large_file_travels_in_parts_and_is_digested_on_the_way(
    store: Store, bucket: str, tmp_path: Path
) -> None:
    content = os.urandom(2 * RANGE_BYTES + 12345)
    (tmp_path / "large").write_bytes(content)
    uri = f"s3://{bucket}/large"
    sent = store.upload(tmp_path / "large", uri)
    got = store.download(uri, tmp_path / "back")
    assert sent == got
    assert got.size == len(content)
    assert got.digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert (tmp_path / "back").read_bytes() == content


def test_an_object_that_changes_while_it_is_read_is_noticed(store: Store, bucket: str) -> None:
    uri = f"s3://{bucket}/changing"
    store.write(uri, b"1" * (8 * RANGE_BYTES))
    parts = store.stream(uri)
    next(parts)
    store.write(uri, b"2" * (8 * RANGE_BYTES))
    with pytest.raises(StageFailure, match="ObjectChanged"):
        list(parts)


def test_an_interrupted_download_leaves_no_file(store: Store, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match="ObjectMissing"):
        store.download(f"s3://{bucket}/nothing", tmp_path / "file")
    assert list(tmp_path.glob("file*")) == []


def test_a_listing_is_of_the_exact_prefix(store: Store, bucket: str) -> None:
    for key in ("a/1", "a/2/3", "ab/4"):
        store.write(f"s3://{bucket}/{key}", b"x")
    assert [entry.uri for entry in store.list(f"s3://{bucket}/a/")] == [
        f"s3://{bucket}/a/1",
        f"s3://{bucket}/a/2/3",
    ]
    assert store.head(f"s3://{bucket}/a/") is None


def test_deleting_twice_is_harmless(store: Store, bucket: str) -> None:
    store.write(f"s3://{bucket}/a", b"x")
    for _ in range(2):
        store.delete([f"s3://{bucket}/a"])
    assert store.list(f"s3://{bucket}/") == []


def test_too_large_an_object_is_refused_before_it_is_read(store: Store, bucket: str) -> None:
    store.write(f"s3://{bucket}/a", b"xyz")
    with pytest.raises(StageFailure, match="ObjectTooLarge"):
        store.read(f"s3://{bucket}/a", limit=2)


def test_missing_bucket_and_missing_object_are_told_apart(store: Store, bucket: str) -> None:
    with pytest.raises(StageFailure, match="BucketMissing"):
        store.read("s3://no-such-bucket/key")
    with pytest.raises(StageFailure, match="BucketMissing"):
        store.write("s3://no-such-bucket/key", b"")
    with pytest.raises(StageFailure, match="ObjectMissing"):
        store.read(f"s3://{bucket}/key")


def test_a_forbidden_bucket_is_denied_and_after_the_grant_it_is_read(
    s3: ObjectStore, store: Store, access: StoreAccess, places: Places, bucket: str, tmp_path: Path
) -> None:
    store.write(f"s3://{bucket}/mine/a", b"x")
    everything = [{"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::other"]}]
    give_keys(places, "data", *add_user(s3, tmp_path, everything))
    assert failure_of(access, places, f"s3://{bucket}/mine/a").reason == "StorageDenied"
    narrow = [{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/mine/*"]}]
    give_keys(places, "data", *add_user(s3, tmp_path, narrow))
    reader = open_store(access, "data", places)
    assert reader.read(f"s3://{bucket}/mine/a") == b"x"
    with pytest.raises(StageFailure, match="StorageDenied"):
        reader.write(f"s3://{bucket}/mine/a", b"y")
    with pytest.raises(StageFailure, match="StorageDenied"):
        reader.delete([f"s3://{bucket}/mine/a"])


def test_wrong_keys_are_denied_at_once(access: StoreAccess, places: Places, s3: ObjectStore) -> None:
    give_keys(places, "data", s3.access_key, "wrong-secret-key")
    assert "SignatureDoesNotMatch" in failure_of(access, places).message
    give_keys(places, "data", "nobody", "wrong-secret-key")
    assert "InvalidAccessKeyId" in failure_of(access, places).message


def test_white_space_around_keys_is_removed_with_a_warning(
    s3: ObjectStore, access: StoreAccess, places: Places, bucket: str
) -> None:
    give_keys(places, "data", s3.access_key, s3.secret_key + "\r\n")
    reader = open_store(access, "data", places)
    assert reader.list(f"s3://{bucket}/") == []
    assert ["secretKey of the data store had white space" in warning for warning in reader.warnings] == [True]


@pytest.mark.parametrize(
    ("content", "says"), [(None, "missing"), (b"", "empty"), (b" \n", "empty"), (b"\xff", "read")]
)
def test_a_key_that_is_not_there_is_named(
    access: StoreAccess, places: Places, content: bytes | None, says: str
) -> None:
    path = places.credentials("data") / "secretKey"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageFailure, match="CredentialsMissing") as failure:
        open_store(access, "data", places)
    assert "secretKey of the data store" in failure.value.message
    assert says in failure.value.message


def test_renewed_keys_are_read_again(
    s3: ObjectStore, access: StoreAccess, places: Places, bucket: str
) -> None:
    give_keys(places, "data", s3.access_key, "old-secret-key")
    reader = open_store(access, "data", places)
    give_keys(places, "data", s3.access_key, s3.secret_key)
    assert reader.list(f"s3://{bucket}/") == []


def test_an_unknown_authority_is_named_and_its_certificate_mends_it(
    s3: ObjectStore, access: StoreAccess, places: Places, bucket: str
) -> None:
    uri = f"s3://{bucket}/key"
    give_authority(places, "data", pki.certificate_pem(pki.new_authority("another").certificate))
    assert "authority is unknown" in failure_of(access, places, uri).message
    assert failure_of(StoreAccess(endpoint=s3.endpoint), places, uri).reason == "StorageCertificate"
    assert s3.ca_file
    give_authority(places, "data", s3.ca_file.read_bytes())
    assert open_store(access, "data", places).head(uri) is None


def test_line_ends_of_windows_in_a_bundle_are_fine(
    s3: ObjectStore, access: StoreAccess, places: Places, bucket: str
) -> None:
    assert s3.ca_file
    give_authority(places, "data", b"\xef\xbb\xbf" + s3.ca_file.read_bytes().replace(b"\n", b"\r\n"))
    reader = open_store(access, "data", places)
    assert reader.head(f"s3://{bucket}/key") is None
    with pytest.raises(StageFailure, match="ObjectMissing"):
        reader.read_range(f"s3://{bucket}/key", 0, 1)


@pytest.mark.parametrize(
    "content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_a_bundle_without_a_certificate_is_refused(
    access: StoreAccess, places: Places, content: bytes
) -> None:
    give_authority(places, "data", content)
    with pytest.raises(StageFailure, match="CaBundleInvalid"):
        open_store(access, "data", places)


@pytest.mark.parametrize(
    ("days", "name", "says"), [(-1, "127.0.0.1", "expired"), (1, "elsewhere.example", "another name")]
)
def test_a_certificate_that_does_not_hold_says_why(
    tmp_path: Path, places: Places, days: int, name: str, says: str
) -> None:
    with tls_server(tmp_path, days=days, name=name) as (endpoint, authority):
        give_authority(places, "data", authority)
        failure = failure_of(StoreAccess(endpoint=endpoint, ca_bundle=True), places)
    assert failure.reason == "StorageCertificate"
    assert says in failure.message


def test_an_authority_that_has_expired_is_refused_and_beside_one_that_holds_it_does_no_harm(
    s3: ObjectStore, access: StoreAccess, places: Places, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.ca_file
    with monkeypatch.context() as then:
        then.setattr(pki, "_BACKDATED", dt.timedelta(days=9))
        then.setattr(pki, "_LIFETIME", dt.timedelta(days=-1))
        expired = pki.certificate_pem(pki.new_authority("of old").certificate)
    give_authority(places, "data", expired)
    with pytest.raises(StageFailure, match="CaBundleInvalid") as failure:
        open_store(access, "data", places)
    yesterday = (dt.datetime.now(dt.UTC) - dt.timedelta(days=1)).date()
    assert f"its certificates have expired, the last on {yesterday}" in failure.value.message
    give_authority(places, "data", expired + s3.ca_file.read_bytes())
    reader = open_store(access, "data", places)
    assert reader.head(f"s3://{bucket}/key") is None
    with pytest.raises(StageFailure, match="ObjectMissing"):
        reader.read_range(f"s3://{bucket}/key", 0, 1)


def test_http_and_https_mixed_up_is_said(s3: ObjectStore, places: Places) -> None:
    plain = StoreAccess(endpoint=s3.endpoint.replace("https", "http"))
    assert failure_of(plain, places).reason == "StorageRefused"
    with answering(200) as (endpoint, _):
        tls = StoreAccess(endpoint=endpoint.replace("http", "https"))
        assert "does not speak TLS" in failure_of(tls, places).message


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("endpoint", "says"), [("http://127.0.0.1:9", "refused"), ("http://no.such.host.invalid", "resolved")]
)
def test_a_store_that_is_not_there_is_unreachable(places: Places, endpoint: str, says: str) -> None:
    failure = failure_of(StoreAccess(endpoint=endpoint), places)
    assert failure.reason == "StorageUnreachable"
    assert says in failure.message


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("status", "reason", "requests"),
    [
        (500, "StorageError", 5),
        (503, "StorageError", 5),
        (429, "StorageThrottled", 5),
        (400, "StorageRefused", 1),
    ],
)
def test_what_may_mend_is_tried_five_times_and_the_rest_once(
    places: Places, status: int, reason: str, requests: int
) -> None:
    with answering(status) as (endpoint, seen):
        reader = open_store(StoreAccess(endpoint=endpoint), "data", places)
        with pytest.raises(StageFailure, match=reason):
            reader.read_range("s3://bucket/key", 0, 1)
    assert len(seen) == requests


def test_a_redirect_to_another_host_is_not_followed(places: Places) -> None:
    with (
        answering(200) as (elsewhere, seen),
        answering(307, location=f"{elsewhere}/bucket/key") as (endpoint, _),
    ):
        access = StoreAccess(endpoint=endpoint.replace("127.0.0.1", "localhost"))
        assert failure_of(access, places).reason == "StorageRedirect"
    assert seen == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://host",
        "host:9000",
        "https://user:word@host",
        "https://host/path",
        "https://host?x=1",
        "https://",
    ],
)
def test_an_endpoint_is_scheme_host_and_port(places: Places, endpoint: str) -> None:
    with pytest.raises(StageFailure, match="EndpointInvalid"):
        open_store(StoreAccess(endpoint=endpoint), "data", places)


def test_unfinished_uploads_below_a_prefix_are_aborted(store: Store, s3_admin: Minio, bucket: str) -> None:
    for key in ("runs/a/1", "runs/a/2", "runs/b/3"):
        s3_admin._create_multipart_upload(bucket, key, {})
    assert store.abort_uploads(f"s3://{bucket}/runs/a/") == 2
    assert store.abort_uploads(f"s3://{bucket}/runs/a/") == 0
    assert store.abort_uploads(f"s3://{bucket}/runs/b/3") == 1


@contextmanager
def answering(status: int, location: str = "") -> Iterator[tuple[str, list[str]]]:
    """A server that always gives the same answer; its endpoint and the requests it has seen."""
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
    """A TLS server whose certificate for this name ends in so many days; its endpoint and its authority."""
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
