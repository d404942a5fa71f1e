"""The policies of docs/security on MinIO: each action is needed, and nothing beyond the policy is permitted.

`tests/trainer/stages/test_store_keys.py` runs all stages with these policies.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from minio import Minio
from minio.commonconfig import ENABLED
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.versioningconfig import SUSPENDED, VersioningConfig

from devcluster.objectstore import Kind, ObjectStore
from finetune_trainer.config import StoreAccess
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store, open_store
from tests.trainer.storage import (
    client_of,
    give_keys,
    give_session_keys,
    give_version,
    remove_user,
    root_client,
    session_keys,
    user_with_policies,
)

POLICIES = Path(__file__).parents[3] / "docs/security/policies"
RUN = "s3://tuned/.finetune-runs/team-support/uid/"
MODEL = "s3://tuned/support/team-support/tickets/v1/"
OBJECTS = (
    *("datasets/support/train.jsonl", "datasets/payroll/train.jsonl"),
    *("models/encoder/config.json", "models/decoder/config.json"),
    *("tuned/support/team-support/tickets/v1/manifest.json", "tuned/support/team-support/tickets/v1/weights"),
    *("tuned/support/team-payroll/wages/v1/manifest.json", "tuned/.finetune-runs/team-support/uid/a"),
    "tuned/.finetune-runs/team-payroll/uid/a",
)
Act = Callable[[Store], object]


def read(uri: str) -> Act:
    return lambda store: store.read(uri)


def listing(uri: str) -> Act:
    return lambda store: store.list(uri)


def write(uri: str) -> Act:
    return lambda store: store.write(uri, b"x")


def delete(uri: str) -> Act:
    return lambda store: store.delete([uri])


def abort(uri: str) -> Act:
    return lambda store: store.abort_uploads(uri)


NEEDS: dict[str, dict[str, Act]] = {
    "read-data": {
        "s3:ListBucket": listing("s3://datasets/support/"),
        "s3:GetObject": read("s3://datasets/support/train.jsonl"),
    },
    "read-model": {
        "s3:ListBucket": listing("s3://models/encoder/"),
        "s3:GetObject": read("s3://models/encoder/config.json"),
    },
    "write-output": {
        "s3:ListBucket": listing(f"{RUN}attempts/"),
        "s3:ListBucketMultipartUploads": abort(RUN),
        "s3:GetObject": read(f"{RUN}a"),
        "s3:PutObject": write(f"{MODEL}b"),
        "s3:AbortMultipartUpload": abort(RUN),
        "s3:DeleteObject": delete(f"{RUN}a"),
    },
    "read-results": {
        "s3:ListBucket": listing(MODEL),
        "s3:GetObject": read(f"{MODEL}weights"),
    },
    "audit": {
        "s3:ListBucket": listing("s3://tuned/"),
        "s3:GetObject": read(f"{MODEL}manifest.json"),
    },
}
"""An operation that needs each action of a policy; Cleanup needs `abort`, the other stages the rest."""
BEYOND: dict[str, dict[str, Act]] = {
    "read-data": {
        "another folder": read("s3://datasets/payroll/train.jsonl"),
        "names in another folder": listing("s3://datasets/payroll/"),
        "names in the bucket": listing("s3://datasets/"),
        "another bucket": read("s3://models/encoder/config.json"),
        "results": read(f"{MODEL}manifest.json"),
        "a write": write("s3://datasets/support/train.jsonl"),
        "a deletion": delete("s3://datasets/support/train.jsonl"),
    },
    "read-model": {
        "another folder": read("s3://models/decoder/config.json"),
        "another bucket": read("s3://datasets/support/train.jsonl"),
        "a write": write("s3://models/encoder/config.json"),
        "a deletion": delete("s3://models/encoder/config.json"),
    },
    "write-output": {
        "the run of another namespace": read("s3://tuned/.finetune-runs/team-payroll/uid/a"),
        "a write to the run of another namespace": write("s3://tuned/.finetune-runs/team-payroll/uid/a"),
        "a deletion in the run of another namespace": delete("s3://tuned/.finetune-runs/team-payroll/uid/a"),
        "the model of another namespace": read("s3://tuned/support/team-payroll/wages/v1/manifest.json"),
        "a write to the model of another namespace": write(
            "s3://tuned/support/team-payroll/wages/v1/manifest.json"
        ),
        "the deletion of a published model": delete(f"{MODEL}manifest.json"),
        "the data": read("s3://datasets/support/train.jsonl"),
        "a write to the data": write("s3://datasets/support/train.jsonl"),
        "a write to the base model": write("s3://models/encoder/config.json"),
    },
    "read-results": {
        "the rows of a run": read(f"{RUN}a"),
        "the model of another namespace": read("s3://tuned/support/team-payroll/wages/v1/manifest.json"),
        "names in another namespace": listing("s3://tuned/support/team-payroll/"),
        "a write": write(f"{MODEL}manifest.json"),
        "a deletion": delete(f"{MODEL}manifest.json"),
    },
    "audit": {
        "the rows of a run": read(f"{RUN}a"),
        "the weights of a model": read(f"{MODEL}weights"),
        "the data": read("s3://datasets/support/train.jsonl"),
        "a write": write(f"{MODEL}manifest.json"),
        "a deletion": delete(f"{RUN}a"),
    },
}
"""Operations that a policy must not permit."""


def policy(name: str, without: str = "") -> str:
    """The text of a policy of the documentation, without one of its actions."""
    document = json.loads((POLICIES / f"{name}.json").read_text())
    for statement in document["Statement"]:
        statement["Action"] = [action for action in statement["Action"] if action != without]
    document["Statement"] = [statement for statement in document["Statement"] if statement["Action"]]
    return json.dumps(document)


def actions(name: str) -> set[str]:
    return {action for statement in json.loads(policy(name))["Statement"] for action in statement["Action"]}


@pytest.fixture(scope="module")
def server(s3_servers: Callable[[Kind], ObjectStore]) -> ObjectStore:
    return s3_servers("minio")


@pytest.fixture
def root(server: ObjectStore) -> Iterator[Minio]:
    """The root user of MinIO, with the buckets of the policies."""
    client, buckets = root_client(server), sorted({where.partition("/")[0] for where in OBJECTS})
    for bucket in buckets:
        client.make_bucket(bucket)
    for where in OBJECTS:
        bucket, _, key = where.partition("/")
        client.put_object(bucket, key, io.BytesIO(b"x"), 1)
    client._create_multipart_upload("tuned", ".finetune-runs/team-support/uid/unfinished", {})
    yield client
    for bucket in buckets:
        found = client.list_objects(bucket, recursive=True, include_version=True)
        doomed = [DeleteObject(str(entry.object_name), entry.version_id) for entry in found]
        assert list(client.remove_objects(bucket, doomed)) == []
        client.remove_bucket(bucket)


@pytest.fixture
def store_of(
    server: ObjectStore, access: StoreAccess, paths: Paths, tmp_path: Path
) -> Callable[[str], Store]:
    """The store as the trainer opens it, with the keys of a new user who has only this policy."""

    def make(document: str) -> Store:
        give_keys(paths, "output", *user_with_policies(server, tmp_path, document))
        return open_store(access, "output", paths)

    return make


def refused(store: Store, act: Act) -> bool:
    try:
        act(store)
    except StageFailure as failure:
        return failure.reason == "StorageDenied"
    return False


@pytest.mark.parametrize("name", NEEDS)
@pytest.mark.usefixtures("root")
def test_every_action_of_a_policy_is_needed(name: str, store_of: Callable[[str], Store]) -> None:
    for action, act in NEEDS[name].items():
        assert refused(store_of(policy(name, without=action)), act), action
    whole = store_of(policy(name))
    assert [action for action, act in NEEDS[name].items() if refused(whole, act)] == []


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.usefixtures("root")
def test_nothing_beyond_a_policy_is_permitted(name: str, store_of: Callable[[str], Store]) -> None:
    store = store_of(policy(name))
    assert [what for what, act in BEYOND[name].items() if not refused(store, act)] == []


def test_the_table_of_needs_has_every_action() -> None:
    rules_of_the_bucket = {"s3:GetBucketVersioning", "s3:GetLifecycleConfiguration"}
    for name, needs in NEEDS.items():
        assert actions(name) - rules_of_the_bucket == set(needs)
    assert {path.stem for path in POLICIES.iterdir()} == {*NEEDS, "delete-versions"}


@pytest.mark.usefixtures("root")
def test_an_auditor_reads_the_rules_of_the_bucket(server: ObjectStore, tmp_path: Path) -> None:
    reads: dict[str, Callable[[Minio], object]] = {
        "s3:GetBucketVersioning": lambda client: client.get_bucket_versioning("tuned"),
        "s3:GetLifecycleConfiguration": lambda client: client.get_bucket_lifecycle("tuned"),
    }

    def client(document: str) -> Minio:
        keys = user_with_policies(server, tmp_path, document)
        return client_of(server, keys)

    for action, act in reads.items():
        act(client(policy("audit")))
        with pytest.raises(S3Error, match="AccessDenied"):
            act(client(policy("audit", without=action)))
    with pytest.raises(S3Error, match="AccessDenied"):
        client(policy("audit")).delete_bucket_lifecycle("tuned")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(("name", "folder"), [("read-data", "s3://datasets/support/"), ("write-output", RUN)])
def test_a_missing_object_is_told_apart_from_a_refused_one(
    store_of: Callable[[str], Store], name: str, folder: str
) -> None:
    assert store_of(policy(name)).head(f"{folder}missing") is None


def test_the_policy_for_versions_lets_cleanup_delete_all_versions_of_a_run(
    server: ObjectStore, root: Minio, access: StoreAccess, paths: Paths, tmp_path: Path
) -> None:
    """MinIO lets keys that may delete an object delete its versions too, unless a policy denies that."""
    root.set_bucket_versioning("tuned", VersioningConfig(ENABLED))

    def versions_left(*documents: str) -> int:
        root.put_object("tuned", ".finetune-runs/team-support/uid/a", io.BytesIO(b"row"), 3)
        give_keys(paths, "output", *user_with_policies(server, tmp_path, *documents))
        return open_store(access, "output", paths).clear(RUN).versions_left

    without = {"Effect": "Deny", "Action": ["s3:DeleteObjectVersion"], "Resource": ["arn:aws:s3:::tuned/*"]}
    deny = json.dumps({"Version": "2012-10-17", "Statement": [without]})
    assert versions_left(policy("write-output"), deny) > 0
    assert versions_left(policy("write-output"), policy("delete-versions")) == 0
    root.set_bucket_versioning("tuned", VersioningConfig(SUSPENDED))


@pytest.mark.usefixtures("root")
def test_a_policy_of_a_session_limits_temporary_keys(
    server: ObjectStore, access: StoreAccess, paths: Paths, tmp_path: Path
) -> None:
    """One user of the site may give each namespace temporary keys with the rights of the namespace."""
    writer = user_with_policies(server, tmp_path, policy("write-output"), policy("read-data"))
    keys = session_keys(server, writer, policy("read-data"))
    give_session_keys(paths, "data", keys)
    store = open_store(access, "data", paths)
    assert store.read("s3://datasets/support/train.jsonl") == b"x"
    for act in (read(f"{MODEL}manifest.json"), write(f"{RUN}b"), *BEYOND["read-data"].values()):
        assert refused(store, act)
    wide = session_keys(server, writer, policy("read-model"))
    give_session_keys(paths, "data", wide)
    assert refused(store, read("s3://models/encoder/config.json")), "a session never has more rights"


@pytest.mark.usefixtures("root", "hasty")
def test_permanent_keys_are_replaced_without_a_restart(
    server: ObjectStore, access: StoreAccess, paths: Paths, tmp_path: Path
) -> None:
    """Rotation: add the new keys, update the Secret, and then remove the old keys."""
    old, new = (user_with_policies(server, tmp_path, policy("write-output")) for _ in range(2))
    give_version(paths, "output", accessKey=old[0], secretKey=old[1])
    store = open_store(access, "output", paths)
    store.write(f"{RUN}b", b"old")
    give_version(paths, "output", accessKey=new[0], secretKey=new[1])
    remove_user(server, old[0])
    assert store.read(f"{RUN}b") == b"old"
    store.write(f"{RUN}b", b"new")
    assert [entry.size for entry in store.list(f"{RUN}b")] == [3]
    remove_user(server, new[0])
    assert refused(store, read(f"{RUN}b"))
