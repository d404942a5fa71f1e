"""Reads the credentials and the CA bundle of a store from files."""

import logging
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from finetune_trainer.config import StoreRole
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Credentials:
    """The credentials of one store. `repr` does not show them."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(repr=False, default=None)
    warnings: tuple[str, ...] = ()
    """Corrections that the trainer made when it read the files."""


def read_credentials(paths: Paths, role: StoreRole) -> Credentials:
    """Reads the files accessKey, secretKey and sessionToken of a store, all from one version of the Secret.

    Args:
        paths: the folders of the pod.
        role: role of the store.

    Raises:
        StageFailure: CredentialsMissing: a file is missing, is empty, or is no text of one line.
    """
    folder = paths.credentials(role)
    while True:
        # After an update, the kubelet deletes the files of the old version, possibly during this loop.
        version = _version(folder)
        try:
            keys = _read_version(version, role)
        except StageFailure:
            if _version(folder) == version:
                raise
        else:
            if _version(folder) == version:
                return keys


def _version(folder: Path) -> Path:
    """The folder of the current version: the kubelet replaces all files at once with the link `..data`."""
    link = folder / "..data"
    return folder / link.readlink() if link.is_symlink() else folder


def _read_version(folder: Path, role: StoreRole) -> Credentials:
    warnings: list[str] = []
    access_key = _read_key(folder, role, "accessKey", warnings)
    secret_key = _read_key(folder, role, "secretKey", warnings)
    token = None
    if (folder / "sessionToken").exists():
        token = _read_key(folder, role, "sessionToken", warnings)
    return Credentials(access_key, secret_key, token, tuple(warnings))


def _read_key(folder: Path, role: StoreRole, name: str, warnings: list[str]) -> str:
    try:
        raw = (folder / name).read_bytes().decode()
    except FileNotFoundError:
        raise _missing(role, name, "is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _missing(role, name, f"cannot be read ({type(error).__name__})") from None
    text = raw.strip().removeprefix("\ufeff")
    if not text:
        raise _missing(role, name, "is empty")
    if any(not letter.isprintable() for letter in text):
        raise _missing(role, name, "has more than one line or a control character")
    if text != raw:
        warnings.append(f"removed white space around the {name} of the {role} store")
    return text


def _missing(role: StoreRole, name: str, what: str) -> StageFailure:
    return StageFailure(
        FailureClass.USER_CONFIG,
        "CredentialsMissing",
        f"The key {name} of the {role} store's Secret {what}.",
        "Check the Secret of storage.secretRef: accessKeyKey and secretKeyKey must name keys of the Secret."
        " The key that sessionTokenKey names may be missing, but must not be empty.",
    )


def read_ca_bundle(paths: Paths, role: StoreRole) -> str:
    """Reads the CA bundle of a store.

    Args:
        paths: the folders of the pod.
        role: role of the store.

    Returns:
        The CA certificates as PEM with line feeds as line ends.

    Raises:
        StageFailure: CaBundleInvalid: the file is missing, has no certificate, or has only expired
            certificates.
    """
    path = paths.ca_bundle(role)
    try:
        text = path.read_bytes().decode("ascii", errors="ignore").replace("\r\n", "\n").replace("\r", "\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=text)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise _invalid_bundle(role, str(error)) from None
    if not context.cert_store_stats()["x509"]:
        raise _invalid_bundle(role, "the file has no certificate")
    # One of the two S3 clients accepts an expired CA certificate, the other client refuses it.
    ends = [ssl.cert_time_to_seconds(str(authority["notAfter"])) for authority in context.get_ca_certs()]
    if ends and max(ends) < time.time():
        last = datetime.fromtimestamp(max(ends), UTC).date()
        raise _invalid_bundle(role, f"all certificates have expired, the last certificate on {last}")
    return text


def _invalid_bundle(role: StoreRole, why: str) -> StageFailure:
    return StageFailure(
        FailureClass.USER_CONFIG,
        "CaBundleInvalid",
        f"The CA bundle of the {role} store cannot be used: {why}.",
        "storage.caBundleRef must name a key of a ConfigMap with PEM certificates (BEGIN CERTIFICATE).",
    )
