"""The two S3 clients of a store, with the same time-outs, CA bundle and credentials, and without redirects.

obstore moves the content of objects. minio asks about, lists and deletes objects. multipart.py sends the two
requests about unfinished uploads over the connections of minio.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials as MinioCredentials
from minio.credentials.providers import Provider
from obstore.store import S3Store

from finetune_trainer.config import StoreAccess
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.credentials import Credentials
from finetune_trainer.s3.retries import WINDOW_SECONDS

_CONNECT_SECONDS = 5
_READ_SECONDS = 30
REQUEST_SECONDS = 600
"""The longest time that one request of obstore may take."""
_CONNECTIONS = 4
_NOWHERE = "http://127.0.0.1:1"
"""The address of a proxy that does not exist, to which obstore sends requests to other hosts (redirects)."""


@dataclass(frozen=True)
class Clients:
    """Both clients of one store."""

    endpoint: str
    region: str
    credentials: Callable[[], Credentials]
    """Reads the keys as they are now."""
    http: urllib3.PoolManager
    """The connections of `control`."""
    control: Minio
    bulk: Callable[[str, int], S3Store]
    """The obstore client of a bucket: (name of the bucket, retries of a request) -> client, cached."""


def connect(access: StoreAccess, credentials: Callable[[], Credentials], ca_bundle: str | None) -> Clients:
    """Creates the clients of a store without sending a request.

    Args:
        access: address of the store.
        credentials: reads the current credentials.
        ca_bundle: CA certificates (PEM), added to those of the system; None for those of the system alone.

    Raises:
        StageFailure: EndpointInvalid.
    """
    check_endpoint(access.endpoint)
    http = connections(ca_bundle)
    return Clients(
        access.endpoint,
        access.region,
        credentials,
        http,
        control_client(access, credentials, http),
        cache(partial(bulk_client, access, credentials, ca_bundle)),
    )


def check_endpoint(endpoint: str) -> None:
    """Checks that an endpoint consists of scheme, host and optionally port.

    Args:
        endpoint: URL of the store.

    Raises:
        StageFailure: EndpointInvalid.
    """
    parts = urlsplit(endpoint)
    plain = parts.scheme in {"http", "https"} and parts.hostname and parts.path in {"", "/"}
    if not plain or parts.username or parts.query or parts.fragment:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "EndpointInvalid",
            f"storage.endpoint: {endpoint!r} is not https://<host>[:<port>].",
            "Set storage.endpoint to scheme, host and port only.",
        )


def bulk_client(
    access: StoreAccess,
    credentials: Callable[[], Credentials],
    ca_bundle: str | None,
    bucket: str,
    retries: int,
) -> S3Store:
    """Creates the obstore client of one bucket, with path-style URLs and new credentials for each request.

    Args:
        access: address of the store.
        credentials: reads the current credentials.
        ca_bundle: CA certificates (PEM), added to those of the system; None for those of the system alone.
        bucket: name of the bucket.
        retries: retries of a single request, for the parts of an upload; retries.py repeats all other
            requests.
    """

    def provide() -> Any:
        keys = credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.session_token,
            # The credentials expire at once, so that obstore reads them again for the next request.
            "expires_at": datetime.now(UTC),
        }

    options: Any = {
        "allow_http": access.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=_READ_SECONDS),
        "timeout": timedelta(seconds=REQUEST_SECONDS),
        "proxy_url": _NOWHERE,
        "proxy_excludes": urlsplit(access.endpoint).hostname,
    }
    if ca_bundle is not None:
        options["root_certificate"] = ca_bundle
    return S3Store(
        bucket,
        config={
            "endpoint": access.endpoint.rstrip("/"),
            "region": access.region,
            "virtual_hosted_style_request": False,
        },
        client_options=options,
        retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=WINDOW_SECONDS)},
        credential_provider=provide,
    )


class _FileKeys(Provider):
    """Reads the credentials from their files for each request of minio."""

    def __init__(self, read: Callable[[], Credentials]) -> None:
        self._read = read

    def retrieve(self) -> MinioCredentials:
        keys = self._read()
        return MinioCredentials(keys.access_key, keys.secret_key, keys.session_token)


def connections(ca_bundle: str | None) -> urllib3.PoolManager:
    """The connections for control requests, without retries.

    Args:
        ca_bundle: PEM, added to the system's authorities.
    """
    context = ssl.create_default_context()
    if ca_bundle is not None:
        context.load_verify_locations(cadata=ca_bundle)
    return urllib3.PoolManager(
        ssl_context=context,
        timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
        retries=False,
        maxsize=_CONNECTIONS,
    )


def control_client(
    access: StoreAccess, credentials: Callable[[], Credentials], http: urllib3.PoolManager
) -> Minio:
    """minio-py on one store; it repeats nothing, follows no redirect and reads the keys for each request."""
    parts = urlsplit(access.endpoint)
    return Minio(
        parts.netloc,
        secure=parts.scheme == "https",
        region=access.region,
        credentials=_FileKeys(credentials),
        http_client=http,
    )
