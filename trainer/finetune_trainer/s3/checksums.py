"""PURE: reads the checksums of an object from the headers of a store, and compares them with the content.

The ETag of an object that was put in one request is the MD5 of its content. The ETag of a multipart upload
is the MD5 of the MD5s of its parts, followed by the number of parts. The ETag of an object that is encrypted
with a key of KMS or of the client is no MD5. MinIO, versitygw and AWS S3 follow these rules.
"""

import hashlib
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_trainer.contract import Digest

ASK = {"x-amz-checksum-mode": "ENABLED"}
"""Header of a HEAD request with which the store returns its stored checksums."""
Verdict = Literal["right", "doubtful", "wrong"]
"""The result of `judge`."""
_ETAG = re.compile(r'"?([0-9a-f]{32})(?:-([0-9]{1,5}))?"?')
_SHA256_BYTES = 32


@dataclass(frozen=True)
class Stated:
    """The checksums of an object in the headers of a store, as far as the trainer can compute them."""

    sha256: Digest | None = None
    etag: str | None = None
    """ETag without quotes; None if the ETag is no digest of the content."""

    @property
    def parts(self) -> int:
        """Number of parts of the ETag; 0 without an ETag."""
        return 0 if self.etag is None else int(self.etag.partition("-")[2] or 1)

    def __str__(self) -> str:
        return f"SHA-256 {self.sha256}" if self.sha256 else f"ETag {self.etag}"


def stated(headers: Mapping[str, str]) -> Stated:
    """Reads the checksums from the headers of the answer to a HEAD request.

    Args:
        headers: headers by their names in lower case.
    """
    encryption = headers.get("x-amz-server-side-encryption", "")
    foreign = encryption.startswith("aws:kms") or any("encryption-customer" in name for name in headers)
    match = None if foreign else _ETAG.fullmatch(headers.get("etag", ""))
    return Stated(
        sha256=_whole_sha256(headers.get("x-amz-checksum-sha256", "")),
        etag="-".join(filter(None, match.groups())) if match else None,
    )


def _whole_sha256(text: str) -> Digest | None:
    """Decodes a SHA-256 of the whole content; None for a SHA-256 of parts, and for an invalid text."""
    try:
        raw = b64decode(text, validate=True)
    except NotBase64:
        return None
    return "sha256:" + raw.hex() if len(raw) == _SHA256_BYTES else None


def even_parts(first: int, size: int, count: int) -> tuple[int, ...] | None:
    """The sizes of the parts of a multipart upload whose parts, except the last part, have the same size.

    Args:
        first: size of the first part in bytes.
        size: size of the object in bytes.
        count: number of parts.

    Returns:
        The size of each part in bytes; None if parts of equal size do not give the size of the object.
    """
    last = size - first * (count - 1)
    return (first,) * (count - 1) + (last,) if 0 < last <= first else None


class EtagDigest:
    """Computes the ETag of a stream of bytes.

    Args:
        parts: sizes in bytes of the parts of the upload; one size for an object that was put in one request.
            An empty sequence disables the computation.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        self._left = deque(parts)
        self._digests = [hashlib.md5(usedforsecurity=False)]

    def update(self, piece: bytes | memoryview) -> None:
        """Adds the next bytes of the stream; bytes beyond the last part belong to the last part."""
        view = memoryview(piece)
        while view and self._left:
            taken = view if len(self._left) == 1 else view[: self._left[0]]
            self._digests[-1].update(taken)
            view = view[len(taken) :]
            self._left[0] -= len(taken)
            if not self._left[0] and len(self._left) > 1:
                self._left.popleft()
                self._digests.append(hashlib.md5(usedforsecurity=False))

    def agrees(self, etag: str) -> bool:
        """Whether an ETag is the ETag of all bytes so far.

        Args:
            etag: the ETag without quotes.
        """
        whole, _, count = etag.partition("-")
        if not count:
            return self._digests[0].hexdigest() == whole
        of_parts = hashlib.md5(b"".join(part.digest() for part in self._digests), usedforsecurity=False)
        return (of_parts.hexdigest(), str(len(self._digests))) == (whole, count)


def judge(states: Stated, sha256: Digest, etag: EtagDigest | None) -> Verdict:
    """Compares received bytes with the checksums of the store.

    Args:
        states: checksums in the headers of the store.
        sha256: SHA-256 of the received bytes.
        etag: ETag of the received bytes; None if the sizes of the parts are unknown.

    Returns:
        `right` if the strongest checksum matches, or if there is no checksum (then only TLS protects the
        content). `doubtful` if only the ETag of a multipart upload differs, because some stores compute this
        ETag in another way than S3. `wrong` in all other cases.
    """
    if states.sha256:
        return "right" if states.sha256 == sha256 else "wrong"
    if states.etag is None or etag is None or etag.agrees(states.etag):
        return "right"
    return "doubtful" if states.parts > 1 else "wrong"
