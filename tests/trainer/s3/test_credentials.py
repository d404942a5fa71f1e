from pathlib import Path

import pytest

from devcluster import pki
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.credentials import Credentials, read_ca_bundle, read_credentials
from tests.trainer.storage import give_authority, give_keys, give_version


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    here = Paths(tmp_path)
    give_keys(here, "data", "somebody", "a secret")
    return here


def test_credentials_come_from_files_and_repr_does_not_show_them(paths: Paths) -> None:
    assert read_credentials(paths, "data") == Credentials("somebody", "a secret")
    assert "secret" not in repr(read_credentials(paths, "data"))
    (paths.credentials("data") / "sessionToken").write_text("a token")
    assert read_credentials(paths, "data") == Credentials("somebody", "a secret", "a token")


@pytest.mark.parametrize("around", ["{}\r\n", " {}", "{}\n\n", "\ufeff{}"])
def test_white_space_around_credentials_is_removed_with_a_warning(paths: Paths, around: str) -> None:
    give_keys(paths, "data", "somebody", around.format("a secret"))
    keys = read_credentials(paths, "data")
    assert (keys.access_key, keys.secret_key) == ("somebody", "a secret")
    assert ["white space around the secretKey of the data store" in warning for warning in keys.warnings] == [
        True
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "missing"),
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff", "read"),
        (b"two\nlines", "more than one line"),
    ],
)
def test_the_message_names_a_missing_or_unusable_credential(
    paths: Paths, content: bytes | None, says: str
) -> None:
    path = paths.credentials("data") / "secretKey"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageFailure, match="CredentialsMissing") as failure:
        read_credentials(paths, "data")
    assert "secretKey of the data store" in failure.value.message
    assert says in failure.value.message


@pytest.mark.parametrize(
    "content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_a_bundle_without_a_certificate_is_refused(paths: Paths, content: bytes | None) -> None:
    if content is not None:
        give_authority(paths, "data", content)
    with pytest.raises(StageFailure, match="CaBundleInvalid"):
        read_ca_bundle(paths, "data")


def test_a_bundle_may_have_several_certificates_and_is_read_with_lf_line_ends(paths: Paths) -> None:
    many = [pki.certificate_pem(pki.new_authority(f"authority {n}").certificate).decode() for n in range(3)]
    give_authority(paths, "data", ("\ufeff" + "".join(many).replace("\n", "\r\n")).encode())
    assert read_ca_bundle(paths, "data") == "".join(many)


def test_credentials_come_from_one_version_of_the_secret(paths: Paths) -> None:
    give_version(paths, "data", accessKey="one", secretKey="1", sessionToken="of one")
    folder = paths.credentials("data")
    assert read_credentials(paths, "data") == Credentials("one", "1", "of one")
    reads = Path.read_bytes

    def overtaken(path: Path) -> bytes:
        """Replaces the Secret after its first key has been read."""
        found = reads(path)
        if found == b"one":
            give_version(paths, "data", accessKey="two", secretKey="2")
        return found

    with pytest.MonkeyPatch.context() as while_reading:
        while_reading.setattr(Path, "read_bytes", overtaken)
        assert read_credentials(paths, "data") == Credentials("two", "2")
    assert sorted(path.name for path in folder.iterdir()) == ["..data", "accessKey", "secretKey", "v1"]
