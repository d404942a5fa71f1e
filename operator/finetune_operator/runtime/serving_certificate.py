"""The TLS certificate of the metrics endpoint: read from files that may be renewed, or self-signed."""

import asyncio
import hashlib
import logging
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from finetune_operator.runtime import metrics

FOLDER = Path("/etc/finetune-operator-tls")
"""Folder of tls.crt and tls.key, the keys of a Secret of type kubernetes.io/tls."""
SELF_SIGNED_DAYS = 365
RENEW_BEFORE = timedelta(days=30)
"""Time before its end at which a self-signed certificate is replaced."""
CHECK_SECONDS = 30.0
"""Interval between two checks of the files."""
log = logging.getLogger(__name__)


class ServingCertificate:
    """A certificate and the TLS context that serves the certificate.

    New connections use a renewed certificate; open connections are not interrupted.

    Args:
        folder: folder with tls.crt and tls.key; if the folder does not exist, the certificate is self-signed.

    Raises:
        OSError, ValueError: the files cannot be read or do not belong together.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._loaded_digest = ""
        self._ends = datetime.min.replace(tzinfo=UTC)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.refresh()

    def refresh(self) -> None:
        """Loads files whose content has changed, or replaces a self-signed certificate before its end."""
        if not self._folder.is_dir():
            if self._ends - datetime.now(UTC) < RENEW_BEFORE:
                self._load(*self_signed(socket.gethostname(), SELF_SIGNED_DAYS))
            return
        certificate, key = ((self._folder / name).read_bytes() for name in ("tls.crt", "tls.key"))
        digest = hashlib.sha256(certificate + key).hexdigest()
        if digest != self._loaded_digest:
            self._load(certificate, key)
            self._loaded_digest = digest

    async def keep_fresh(self) -> None:
        """Refreshes the certificate until cancelled.

        Files that cannot be used are logged, and the certificate from before stays.
        """
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                self.refresh()
            except (OSError, ValueError) as error:
                log.error("the certificate in %s cannot be used: %s", self._folder, error)  # noqa: TRY400

    def _load(self, certificate: bytes, key: bytes) -> None:
        with _in_memory(certificate) as certificate_file, _in_memory(key) as key_file:
            # A context whose certificate and key do not belong together refuses all connections.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate_file, key_file)
            self.context.load_cert_chain(certificate_file, key_file)
        loaded = x509.load_pem_x509_certificate(certificate)
        self._ends = loaded.not_valid_after_utc
        metrics.CERTIFICATE_START.set(loaded.not_valid_before_utc.timestamp())
        metrics.CERTIFICATE_END.set(self._ends.timestamp())


def self_signed(name: str, days: int) -> tuple[bytes, bytes]:
    """Makes a self-signed certificate for a host name; returns certificate and private key in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A file that exists only in memory, because the ssl module reads certificates and keys from files."""
    file = os.memfd_create("certificate")
    try:
        os.write(file, content)
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)
