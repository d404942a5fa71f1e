"""One request to a notification target: signature, TLS, and the meaning of the answer.

The headers webhook-id, webhook-timestamp and webhook-signature follow Standard Webhooks
(https://www.standardwebhooks.com). The files of a target are read for each request, so a new key or a new
certificate authority needs no restart.
"""

import asyncio
import base64
import binascii
import functools
import hashlib
import hmac
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp

from finetune_operator.names import FIELD_MANAGER

FOLDER = Path("/var/run/finetune-operator/notifications")
"""Folder with a folder for each target, which holds the keys of the Secret of the target."""
KEY_FILES = ("signingKey", "previousSigningKey")
CA_FILE = "ca.crt"
KEY_PREFIX = "whsec_"
MIN_KEY_BYTES = 24
MAX_WAIT_SECONDS = 600.0
"""The longest wait that a Retry-After header may ask for."""
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """The result of one request."""

    problem: str | None = None
    """Why the target does not have the notification, for the status of the job; None: the target has the
    notification."""
    final: bool = True
    """Whether a further request would have the same result."""
    wait: float = 0.0
    """Seconds for which the target asks to be left alone."""
    detail: str = ""
    """The text of the error, only for the log: the text may quote the URL, which the status never shows."""

    def __str__(self) -> str:
        return f"{self.problem} {self.detail}".strip()


def sign(keys: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of webhook-signature: one HMAC-SHA256 for each key, separated by blanks.

    Args:
        keys: the signing keys, in bytes.
        message_id: the value of webhook-id.
        timestamp: the value of webhook-timestamp, in Unix seconds.
        body: the body of the request.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def decode_key(text: str) -> bytes:
    """The bytes of a signing key such as whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw.

    Raises:
        ValueError: the text is not base64, or the key has less than 24 bytes.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(KEY_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a signing key must be base64, with or without the prefix whsec_") from None
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a signing key must have at least {MIN_KEY_BYTES} bytes before base64")
    return key


def read_keys(folder: Path) -> list[bytes]:
    """The signing keys of a target: the current key, and the previous key during a rotation.

    Raises:
        ValueError: there is no current key, or a key cannot be used. The message quotes no key.
    """
    keys = []
    for name in KEY_FILES:
        try:
            keys.append(decode_key((folder / name).read_text()))
        except FileNotFoundError:
            if name == KEY_FILES[0]:
                raise ValueError(f"The Secret of the target does not exist or has no {name}.") from None
        except (OSError, ValueError) as error:
            why = "it cannot be read" if isinstance(error, OSError | UnicodeError) else error
            raise ValueError(f"{name} of the Secret of the target cannot be used: {why}.") from None
    return keys


async def post(
    session: aiohttp.ClientSession,
    url: str,
    headers: dict[str, str],
    body: bytes,
    *,
    authorities: str | None,
    proxy: str | None,
    seconds: float,
    now: datetime,
) -> Answer:
    """Sends a notification. Redirects are not followed, and the body of the answer is not read.

    Args:
        session: the HTTP client.
        url: the URL of the target.
        headers: the headers of Standard Webhooks.
        body: the CloudEvent.
        authorities: further certificate authorities (PEM); None: only those of the system.
        proxy: the URL of a proxy; None: no proxy.
        seconds: the time until the request counts as failed.
        now: the current time, for a Retry-After header with a date.
    """
    try:
        context = await asyncio.to_thread(_tls_context, authorities)
    except (ssl.SSLError, ValueError) as error:
        return Answer(f"{CA_FILE} of the Secret of the target cannot be used: {error}.", final=False)
    try:
        async with session.post(
            url,
            data=body,
            headers={**headers, "Content-Type": CONTENT_TYPE, "User-Agent": FIELD_MANAGER},
            ssl=context,
            proxy=proxy,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds),
        ) as response:
            return judge(response.status, response.headers.get("Retry-After"), now)
    except TimeoutError:
        return Answer(f"The target did not answer within {seconds:g} s.", final=False)
    except (aiohttp.ClientError, OSError) as error:
        problem = f"The request to the target failed: {type(error).__name__}."
        return Answer(problem, final=False, detail=str(error))


def judge(status: int, retry_after: str | None, now: datetime) -> Answer:
    """The meaning of an HTTP status: 2xx is success; 408, 429 and 5xx may pass; all others are final."""
    match status:
        case _ if 200 <= status < 300:  # noqa: PLR2004 - the class of success
            return Answer()
        case _ if 300 <= status < 400:  # noqa: PLR2004 - the class of redirects
            return Answer(
                f"The target answered {status}. The operator follows no redirects: url must be the final"
                " address."
            )
        case 408 | 429:
            pass
        case _ if status < 500:  # noqa: PLR2004 - the class of server errors begins here
            return Answer(f"The target refused the notification: HTTP status {status}.")
        case _:
            pass
    return Answer(f"The target answered {status}.", final=False, wait=_seconds(retry_after, now))


def read_authorities(folder: Path) -> str | None:
    """The further certificate authorities of a target (PEM); None: the Secret of the target has none."""
    try:
        return (folder / CA_FILE).read_text()
    except OSError:
        return None


@functools.lru_cache(maxsize=64)
def _tls_context(authorities: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authorities:
        context.load_verify_locations(cadata=authorities)
    return context


def _seconds(retry_after: str | None, now: datetime) -> float:
    """The wait of a Retry-After header, in seconds; the header holds a number or a date."""
    text = (retry_after or "").strip()
    if text.isdecimal():
        return min(float(text), MAX_WAIT_SECONDS)
    try:
        wait = (parsedate_to_datetime(text) - now).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(max(wait, 0.0), MAX_WAIT_SECONDS)
