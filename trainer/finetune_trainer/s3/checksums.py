"""PURE: what a store states of an object's content, and whether the bytes that came are those.

An ETag is the MD5 of an object that was put at once, and of one put in parts the MD5 of the parts' MD5s with
their number; not of one encrypted with a key of KMS or of the client. So do MinIO, versitygw and AWS S3.
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
"""Header of a HEAD request that has the store state the checksums it keeps."""
Verdict = Literal["right", "doubtful", "wrong"]
_ETAG = re.compile(r'"?([0-9a-f]{32})(?:-([0-9]{1,5}))?"?')
_SHA256_BYTES = 32


@dataclass(frozen=True)
class Stated:
    """The digests that a store states of an object's content, of those that can be computed here."""

    sha256: Digest | None = None
    etag: str | None = None
    """Without quotes; None where it is no digest of the content."""

    @property
    def parts(self) -> int:
        """How many parts the ETag is made of; 0 without one."""
        return 0 if self.etag is None else int(self.etag.partition("-")[2] or 1)

    def __str__(self) -> str:
        return f"SHA-256 {self.sha256}" if self.sha256 else f"ETag {self.etag}"


def stated(headers: Mapping[str, str]) -> Stated:
    """Reads the answer to a HEAD request; names of headers in lower case."""
    encryption = headers.get("x-amz-server-side-encryption", "")
    foreign = encryption.startswith("aws:kms") or any("encryption-customer" in name for name in headers)
    match = None if foreign else _ETAG.fullmatch(headers.get("etag", ""))
    return Stated(
        sha256=_whole_sha256(headers.get("x-amz-checksum-sha256", "")),
        etag="-".join(filter(None, match.groups())) if match else None,
    )


def _whole_sha256(text: str) -> Digest | None:
    """None for the SHA-256 of parts, which ends in their number, and for what is none."""
    try:
        raw = b64decode(text, validate=True)
    except NotBase64:
        return None
    return "sha256:" + raw.hex() if len(raw) == _SHA256_BYTES else None


def even_parts(first: int, size: int, count: int) -> tuple[int, ...] | None:
    """Sizes in bytes of so many parts that are all as large as the first, the last at most; None if not."""
    last = size - first * (count - 1)
    return (first,) * (count - 1) + (last,) if 0 < last <= first else None


class EtagDigest:
    """The ETag that a store would give the bytes that come.

    Args:
        parts: sizes in bytes of the parts that they were put in, one for an object put at once; without any,
            nothing is computed.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        self._left = deque(parts)
        self._digests = [hashlib.md5(usedforsecurity=False)]

    def update(self, piece: bytes | memoryview) -> None:
        """Takes the next bytes; those beyond the last part are of it."""
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
        """Whether this is the ETag of all bytes so far."""
        whole, _, count = etag.partition("-")
        if not count:
            return self._digests[0].hexdigest() == whole
        of_parts = hashlib.md5(b"".join(part.digest() for part in self._digests), usedforsecurity=False)
        return (of_parts.hexdigest(), str(len(self._digests))) == (whole, count)


def judge(states: Stated, sha256: Digest, etag: EtagDigest | None) -> Verdict:
    """Whether the bytes that came are those that the store speaks of.

    Args:
        states: what is said of the object.
        sha256: of the bytes that came.
        etag: of the bytes that came; None where it is not known how they were put.

    Returns:
        `right` also where there is nothing to compare: then TLS is all that guards the bytes. `doubtful`
        where only an ETag of several parts differs: there are stores that do not make it as S3 does.
    """
    if states.sha256:
        return "right" if states.sha256 == sha256 else "wrong"
    if states.etag is None or etag is None or etag.agrees(states.etag):
        return "right"
    return "doubtful" if states.parts > 1 else "wrong"
