import datetime as dt
from pathlib import Path

import pytest

from devcluster import pki
from devcluster.objectstore import ObjectStore
from finetune_trainer.config import StoreAccess
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import open_store
from tests.trainer.s3.servers import answering, failure_of, tls_server
from tests.trainer.storage import give_authority, give_keys, on_both_stores


@on_both_stores
def test_wrong_credentials_are_denied_without_a_retry(
    access: StoreAccess, paths: Paths, s3: ObjectStore
) -> None:
    give_keys(paths, "data", s3.access_key, "wrong-secret-key")
    assert "SignatureDoesNotMatch" in failure_of(access, paths).message
    give_keys(paths, "data", "nobody", "wrong-secret-key")
    assert "InvalidAccessKeyId" in failure_of(access, paths).message


@on_both_stores
def test_an_unknown_authority_is_an_error_until_its_certificate_is_in_the_bundle(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str
) -> None:
    uri = f"s3://{bucket}/key"
    give_authority(paths, "data", pki.certificate_pem(pki.new_authority("another").certificate))
    assert "authority is unknown" in failure_of(access, paths, uri).message
    assert failure_of(StoreAccess(endpoint=s3.endpoint), paths, uri).reason == "StorageCertificate"
    assert s3.ca_file
    give_authority(paths, "data", s3.ca_file.read_bytes())
    assert open_store(access, "data", paths).head(uri) is None


@pytest.mark.parametrize(
    ("days", "name", "says"), [(-1, "127.0.0.1", "expired"), (1, "elsewhere.example", "another name")]
)
def test_the_message_about_an_invalid_certificate_has_the_cause(
    tmp_path: Path, paths: Paths, days: int, name: str, says: str
) -> None:
    with tls_server(tmp_path, days=days, name=name) as (endpoint, authority):
        give_authority(paths, "data", authority)
        failure = failure_of(StoreAccess(endpoint=endpoint, ca_bundle=True), paths)
    assert failure.reason == "StorageCertificate"
    assert says in failure.message


@on_both_stores
def test_renewed_credentials_are_read_again(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str
) -> None:
    give_keys(paths, "data", s3.access_key, "old-secret-key")
    reader = open_store(access, "data", paths)
    give_keys(paths, "data", s3.access_key, s3.secret_key)
    assert reader.list(f"s3://{bucket}/") == []


@on_both_stores
def test_a_bundle_with_crlf_line_ends_is_accepted(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str
) -> None:
    assert s3.ca_file
    give_authority(paths, "data", b"\xef\xbb\xbf" + s3.ca_file.read_bytes().replace(b"\n", b"\r\n"))
    reader = open_store(access, "data", paths)
    assert reader.head(f"s3://{bucket}/key") is None
    with pytest.raises(StageFailure, match="ObjectMissing"):
        reader.read_range(f"s3://{bucket}/key", 0, 1)


def test_a_bundle_is_refused_only_if_all_its_certificates_have_expired(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.ca_file
    with monkeypatch.context() as then:
        then.setattr(pki, "_BACKDATED", dt.timedelta(days=9))
        then.setattr(pki, "_LIFETIME", dt.timedelta(days=-1))
        expired = pki.certificate_pem(pki.new_authority("of old").certificate)
    give_authority(paths, "data", expired)
    with pytest.raises(StageFailure, match="CaBundleInvalid") as failure:
        open_store(access, "data", paths)
    yesterday = (dt.datetime.now(dt.UTC) - dt.timedelta(days=1)).date()
    assert f"all certificates have expired, the last certificate on {yesterday}" in failure.value.message
    give_authority(paths, "data", expired + s3.ca_file.read_bytes())
    reader = open_store(access, "data", paths)
    assert reader.head(f"s3://{bucket}/key") is None
    with pytest.raises(StageFailure, match="ObjectMissing"):
        reader.read_range(f"s3://{bucket}/key", 0, 1)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("s3", "reason"),
    [("minio", "StorageRefused"), ("versitygw", "StorageUnreachable")],
    indirect=["s3"],
)
def test_the_wrong_scheme_in_the_endpoint_is_in_message_or_hint(
    s3: ObjectStore, paths: Paths, reason: str
) -> None:
    # One store answers 400, the other store closes the connection.
    failure = failure_of(StoreAccess(endpoint=s3.endpoint.replace("https", "http")), paths)
    assert failure.reason == reason
    assert "https" in failure.hint
    with answering(200) as (endpoint, _):
        tls = StoreAccess(endpoint=endpoint.replace("http", "https"))
        assert "does not speak TLS" in failure_of(tls, paths).message


def test_a_redirect_to_another_host_is_not_followed(paths: Paths) -> None:
    with (
        answering(200) as (elsewhere, seen),
        answering(307, location=f"{elsewhere}/bucket/key") as (endpoint, _),
    ):
        access = StoreAccess(endpoint=endpoint.replace("127.0.0.1", "localhost"))
        assert failure_of(access, paths).reason == "StorageRedirect"
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
def test_an_endpoint_with_more_than_scheme_host_and_port_is_refused(paths: Paths, endpoint: str) -> None:
    with pytest.raises(StageFailure, match="EndpointInvalid"):
        open_store(StoreAccess(endpoint=endpoint), "data", paths)
