"""PURE: s3 URIs as people write them. Refuses what two programs could read differently."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61}[a-z0-9])")
_MAX_KEY_BYTES = 1024
_CONTROL_OR_BACKSLASH = frozenset(map(chr, [*range(32), 127])) | {"\\"}


class UriError(ValueError):
    """A URI that is refused; the text shows it and says what it must look like."""


@dataclass(frozen=True)
class S3Uri:
    """One object, or with an empty key or one that ends in a slash, everything below."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rstrip("/").rpartition("/")[2]

    def folder(self) -> Self:
        """The same, ending in a slash: everything below it."""
        key = self.key if not self.key or self.key.endswith("/") else self.key + "/"
        return type(self)(self.bucket, key)

    def contains(self, other: Self) -> bool:
        """Whether the other is this, or lies below it, seen as folders."""
        return self.bucket == other.bucket and other.folder().key.startswith(self.folder().key)


def parse(text: str) -> S3Uri:
    """Reads `s3://<bucket>/<key>`; the key is taken literally, never percent-decoded.

    Raises:
        UriError: not s3, no bucket, userinfo, port, query, fragment, `.` or `..` or an empty part (also
            percent-encoded), backslash, control character, or a key above 1,024 bytes.
    """
    scheme, separator, rest = text.partition("://")
    if scheme != "s3" or not separator:
        raise UriError(f"{text!r} is no s3 URI; write s3://<bucket>/<key>")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise UriError(f"{text!r} names no bucket; write s3://<bucket>/<key>")
    if "@" in bucket or ":" in bucket:
        shown = (
            f"s3://...@{rest.rpartition('@')[2]}" if "@" in bucket else text
        )  # messages are no place for keys
        raise UriError(
            f"{shown!r} carries credentials or a port; those belong in storage, write s3://<bucket>/<key>"
        )
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UriError(f"{bucket!r} in {text!r} is no bucket name: 3-63 of a-z, 0-9, dot and hyphen")
    _check_key(key, text)
    return S3Uri(bucket, key)


def _check_key(key: str, text: str) -> None:
    decoded = _fully_unquoted(key)
    if any(mark in key for mark in "?#"):
        raise UriError(f"{text!r} carries a query or a fragment; a key holds no ? and no #")
    if any(letter in _CONTROL_OR_BACKSLASH for letter in decoded):
        raise UriError(f"{text!r} holds a control character or a backslash")
    if len(key.encode(errors="surrogatepass")) > _MAX_KEY_BYTES:
        raise UriError(f"the key of s3 URI {text[:60]!r}... is longer than {_MAX_KEY_BYTES} bytes")
    parts = decoded.removesuffix("/").split("/") if key else []
    if any(part in {".", ".."} for part in parts):
        raise UriError(f"{text!r} holds a part `.` or `..`; write the path out")
    if "" in parts:
        raise UriError(f"{text!r} holds a double slash; stores disagree about it, write a single one")


def _fully_unquoted(key: str) -> str:
    """The key after as many rounds of percent-decoding as change it: `%252e` hides as well as `%2e`."""
    while (decoded := unquote(key)) != key:
        key = decoded
    return key
