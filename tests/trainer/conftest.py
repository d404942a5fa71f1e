"""A real MinIO with TLS by an authority of its own, one for the test run, one bucket for each test."""

import json
import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import urllib3
from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider

from devcluster.objectstore import ObjectStore, object_store
from finetune_trainer.config import StoreAccess, StoreRole
from finetune_trainer.places import Places
from finetune_trainer.store import Store, open_store


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_admin(s3: ObjectStore) -> Minio:
    """minio-py as the server's root user."""
    return root_client(s3)


def root_client(server: ObjectStore) -> Minio:
    context = ssl.create_default_context(cafile=str(server.ca_file)) if server.ca_file else None
    host = server.endpoint.partition("://")[2]
    pool = urllib3.PoolManager(ssl_context=context) if context else urllib3.PoolManager()
    secure = server.endpoint.startswith("https")
    return Minio(
        host, access_key=server.access_key, secret_key=server.secret_key, secure=secure, http_client=pool
    )


@pytest.fixture
def bucket(s3_admin: Minio) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    s3_admin.make_bucket(name)
    yield name
    for entry in s3_admin.list_objects(name, recursive=True):
        s3_admin.remove_object(name, str(entry.object_name))
    s3_admin.remove_bucket(name)


@pytest.fixture
def access(s3: ObjectStore) -> StoreAccess:
    return StoreAccess(endpoint=s3.endpoint, ca_bundle=True)


@pytest.fixture
def places(tmp_path: Path, s3: ObjectStore) -> Places:
    """A trainer's root folder with keys and authority of all three roles."""
    root = Places(tmp_path / "root")
    assert s3.ca_file
    for role in get_args(StoreRole):
        give_keys(root, role, s3.access_key, s3.secret_key)
        give_authority(root, role, s3.ca_file.read_bytes())
    return root


@pytest.fixture
def store(access: StoreAccess, places: Places) -> Store:
    return open_store(access, "output", places)


def give_keys(places: Places, role: StoreRole, access_key: str, secret_key: str) -> None:
    folder = places.credentials(role)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accessKey").write_text(access_key)
    (folder / "secretKey").write_text(secret_key)


def give_authority(places: Places, role: StoreRole, pem: bytes) -> None:
    path = places.ca_bundle(role)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pem)


def add_user(server: ObjectStore, tmp_path: Path, statements: list[dict[str, object]]) -> tuple[str, str]:
    """A MinIO user with this policy and no other; access key and secret key."""
    name, secret = f"user-{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    admin = MinioAdmin(
        server.endpoint.partition("://")[2],
        credentials=StaticProvider(server.access_key, server.secret_key),
        cert_check=True,
        http_client=urllib3.PoolManager(ssl_context=ssl.create_default_context(cafile=str(server.ca_file))),
    )
    policy = tmp_path / f"{name}.json"
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": statements}))
    admin.user_add(name, secret)
    admin.policy_add(name, str(policy))
    admin.policy_set(name, user=name)
    return name, secret
