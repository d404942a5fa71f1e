"""Who may reach the tests' S3 servers, and what a trainer's pod has to reach them with."""

import json
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import pytest
import urllib3
from minio import Minio, MinioAdmin
from minio.credentials import AssumeRoleProvider, StaticProvider
from minio.credentials.credentials import Credentials as MinioCredentials
from minio.datatypes import Part

from devcluster import binaries
from devcluster.objectstore import Kind, ObjectStore
from finetune_trainer.config import StoreRole
from finetune_trainer.paths import Paths

on_both_stores = pytest.mark.parametrize("s3", get_args(Kind), indirect=True)
"""Runs a test against each S3 server; without it, only the first is meant."""


def client_of(server: ObjectStore, user: tuple[str, str]) -> Minio:
    """A client with the access key and the secret key of a user."""
    context = ssl.create_default_context(cafile=str(server.ca_file)) if server.ca_file else None
    host = server.endpoint.partition("://")[2]
    pool = urllib3.PoolManager(ssl_context=context) if context else urllib3.PoolManager()
    secure = server.endpoint.startswith("https")
    # Without a region, the client asks the store for the region of a bucket, which needs a right.
    return Minio(
        host, access_key=user[0], secret_key=user[1], region="us-east-1", secure=secure, http_client=pool
    )


def root_client(server: ObjectStore) -> Minio:
    return client_of(server, (server.access_key, server.secret_key))


def give_keys(paths: Paths, role: StoreRole, access_key: str, secret_key: str) -> None:
    folder = paths.credentials(role)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accessKey").write_text(access_key)
    (folder / "secretKey").write_text(secret_key)


def give_version(paths: Paths, role: StoreRole, **files: str) -> None:
    """Puts the next version of a Secret in place of the last as the kubelet does: all files at once."""
    folder = paths.credentials(role)
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "..data"
    old = folder / link.readlink() if link.is_symlink() else None
    version = folder / f"v{int(old.name.removeprefix('v')) + 1 if old else 0}"
    version.mkdir()
    for name, content in files.items():
        (version / name).write_text(content)
    turned = folder / "..data_tmp"
    turned.symlink_to(version.name)
    turned.rename(link)
    for path in (path for path in folder.iterdir() if not path.name.startswith(("v", ".."))):
        path.unlink()
    for name in files:
        (folder / name).symlink_to(Path("..data") / name)
    if old:
        shutil.rmtree(old)


def give_session_keys(
    paths: Paths, role: StoreRole, keys: MinioCredentials, token: str | None = None
) -> None:
    """Puts temporary keys into the next version of a Secret; `token` replaces the token of the keys."""
    files = {"accessKey": keys.access_key, "secretKey": keys.secret_key}
    give_version(paths, role, **files, sessionToken=token or keys.session_token or "")


def session_keys(
    server: ObjectStore, user: tuple[str, str] | None = None, policy: str | None = None
) -> MinioCredentials:
    """Temporary keys (STS AssumeRole), good for an hour, the least that minio asks for.

    Args:
        server: that issues the keys.
        user: access key and secret key of the user who asks; None: the root user.
        policy: JSON policy that limits the rights of the user further; None: all rights of the user.
    """
    access_key, secret_key = user or (server.access_key, server.secret_key)
    return AssumeRoleProvider(
        sts_endpoint=server.endpoint,
        access_key=access_key,
        secret_key=secret_key,
        policy=policy,
        http_client=urllib3.PoolManager(ca_certs=str(server.ca_file)),
    ).retrieve()


def give_authority(paths: Paths, role: StoreRole, pem: bytes) -> None:
    path = paths.ca_bundle(role)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pem)


def add_user(
    server: ObjectStore,
    bucket: str,
    grants: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    denied: Sequence[str] = (),
) -> tuple[str, str]:
    """A user with these rights on one bucket and no others.

    Args:
        server: that gets the user.
        bucket: its name.
        grants: actions by what they are granted on: "" is the bucket, "mine/*" the objects below a folder.
        folder: for files that are needed on the way.
        denied: actions that are denied everywhere, because MinIO grants some of them with others.

    Returns:
        Access key and secret key.
    """
    name, secret = f"user-{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    statements: list[dict[str, object]] = [
        {
            "Effect": "Allow",
            "Action": list(actions),
            "Resource": [f"arn:aws:s3:::{bucket}/{on}" if on else f"arn:aws:s3:::{bucket}"],
        }
        for on, actions in grants.items()
    ]
    if denied:
        everywhere = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        statements.append({"Effect": "Deny", "Action": list(denied), "Resource": everywhere})
    match server.kind:
        case "minio":
            _add_to_minio(server, name, secret, statements, folder)
        case "versitygw":
            _add_to_versitygw(server, name, secret, statements, bucket)
    return name, secret


def user_with_policies(
    server: ObjectStore, folder: Path, *policies: str, user: tuple[str, str] | None = None
) -> tuple[str, str]:
    """A user of MinIO with these policies and no others.

    Args:
        server: MinIO.
        folder: for files that are needed on the way.
        policies: JSON documents.
        user: access key and secret key; None: random ones.

    Returns:
        Access key and secret key.
    """
    name, secret = user or (f"user-{secrets.token_hex(4)}", secrets.token_urlsafe(16))
    admin = _minio_admin(server)
    admin.user_add(name, secret)
    names = []
    for number, policy in enumerate(policies):
        names.append(f"{name}-{number}")
        file = folder / f"{names[-1]}.json"
        file.write_text(policy)
        admin.policy_add(names[-1], str(file))
    if names:
        admin.policy_set(",".join(names), user=name)
    return name, secret


def remove_user(server: ObjectStore, name: str) -> None:
    """MinIO refuses the keys of this user from here on."""
    _minio_admin(server).user_remove(name)


def _minio_admin(server: ObjectStore) -> MinioAdmin:
    return MinioAdmin(
        endpoint=server.endpoint.partition("://")[2],
        credentials=StaticProvider(server.access_key, server.secret_key),
        cert_check=True,
        http_client=urllib3.PoolManager(ssl_context=ssl.create_default_context(cafile=str(server.ca_file))),
    )


def _add_to_minio(
    server: ObjectStore, name: str, secret: str, statements: list[dict[str, object]], folder: Path
) -> None:
    admin = _minio_admin(server)
    admin.user_add(name, secret)
    if statements:
        policy = folder / f"{name}.json"
        policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": statements}))
        admin.policy_add(name, str(policy))
        admin.policy_set(name, user=name)


def _add_to_versitygw(
    server: ObjectStore, name: str, secret: str, statements: list[dict[str, object]], bucket: str
) -> None:
    """It has no policies of users; a bucket's policy names them."""
    root = ["--access", server.access_key, "--secret", server.secret_key]
    admin = [
        binaries.path("versitygw"),
        "admin",
        "--endpoint-url",
        server.endpoint,
        "--allow-insecure",
        *root,
    ]
    user = ["create-user", "--access", name, "--secret", secret, "--role", "user"]
    subprocess.run([*admin, *user], check=True, timeout=20, capture_output=True)
    if statements:
        named = [{**statement, "Principal": {"AWS": [name]}} for statement in statements]
        policy = json.dumps({"Version": "2012-10-17", "Statement": named})
        root_client(server).set_bucket_policy(bucket, policy)


def put_in_parts(admin: Minio, bucket: str, key: str, pieces: Sequence[bytes]) -> None:
    """An object as another program would put it: in parts of its own choice."""
    upload = admin._create_multipart_upload(bucket, key, {})
    parts = [
        Part(number, admin._upload_part(bucket, key, piece, {}, upload, number))
        for number, piece in enumerate(pieces, start=1)
    ]
    admin._complete_multipart_upload(bucket, key, upload, parts)


def uploads_of(admin: Minio, bucket: str, key: str) -> int:
    """How many uploads of an object are unfinished."""
    return len(admin._list_multipart_uploads(bucket, prefix=key).uploads)
