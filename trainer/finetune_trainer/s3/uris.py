"""PURE: parses s3 URIs, and refuses URIs that two programs could read in different ways."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61}[a-z0-9])")
_MAX_KEY_BYTES = 1024
_CONTROL_OR_BACKSLASH = frozenset(map(chr, [*range(32), 127])) | {"\\"}


class UriError(ValueError):
    """A URI is refused; the text has the URI and the expected form."""


@dataclass(frozen=True)
class S3Uri:
    """The URI of an object, or of a folder if the key is empty or has a slash at the end."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rstrip("/").rpartition("/")[2]

    def folder(self) -> Self:
        """The URI as a folder: with a slash at the end of the key."""
        key = self.key if not self.key or self.key.endswith("/") else self.key + "/"
        return type(self)(self.bucket, key)

    def contains(self, other: Self) -> bool:
        """Whether another URI is equal to this URI or below it; both URIs count as folders.

        Args:
            other: the other URI.
        """
        return self.bucket == other.bucket and other.folder().key.startswith(self.folder().key)


def parse(text: str) -> S3Uri:
    """Parses `s3://<bucket>/<key>`. The key is literal: the function does not decode percent-encoding.

    Args:
        text: the URI.

    Raises:
        UriError: the URI has another scheme, no bucket, an invalid bucket name, user information, a port, a
            query, a fragment, an empty part or a part `.` or `..` (also percent-encoded), a backslash, a
            control character, or a key longer than 1,024 bytes.
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
        )  # a message must not contain credentials
        raise UriError(
            f"{shown!r} has credentials or a port, which belong into storage; write s3://<bucket>/<key>"
        )
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UriError(
            f"{bucket!r} in {text!r} is no bucket name: use 3 to 63 characters a-z, 0-9, dot and hyphen"
        )
    _check_key(key, text)
    return S3Uri(bucket, key)


def _check_key(key: str, text: str) -> None:
    decoded = _fully_unquoted(key)
    if any(mark in key for mark in "?#"):
        raise UriError(f"{text!r} has a query or a fragment; a key must not contain ? or #")
    if any(letter in _CONTROL_OR_BACKSLASH for letter in decoded):
        raise UriError(f"{text!r} contains a control character or a backslash; remove it")
    if len(key.encode(errors="surrogatepass")) > _MAX_KEY_BYTES:
        raise UriError(f"the key of s3 URI {text[:60]!r}... is longer than {_MAX_KEY_BYTES} bytes")
    parts = decoded.removesuffix("/").split("/") if key else []
    if any(part in {".", ".."} for part in parts):
        raise UriError(f"{text!r} contains a part `.` or `..`; write the path without it")
    if "" in parts:
        raise UriError(f"{text!r} contains a double slash, which is ambiguous; use a single slash")


def _fully_unquoted(key: str) -> str:
    """Decodes percent-encoding until the key no longer changes, because `%252e` may also decode to a dot."""
    while (decoded := unquote(key)) != key:
        key = decoded
    return key
