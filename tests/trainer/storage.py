"""Who may reach the tests' S3 server, and what a trainer's pod has to reach it with."""

import json
import secrets
import ssl
from pathlib import Path

import urllib3
from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider

from devcluster.objectstore import ObjectStore
from finetune_trainer.config import StoreRole
from finetune_trainer.places import Places


def root_client(server: ObjectStore) -> Minio:
    context = ssl.create_default_context(cafile=str(server.ca_file)) if server.ca_file else None
    host = server.endpoint.partition("://")[2]
    pool = urllib3.PoolManager(ssl_context=context) if context else urllib3.PoolManager()
    secure = server.endpoint.startswith("https")
    return Minio(
        host, access_key=server.access_key, secret_key=server.secret_key, secure=secure, http_client=pool
    )


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
        endpoint=server.endpoint.partition("://")[2],
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
