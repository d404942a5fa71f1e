"""A whole run with the keys that docs/security gives each role: the policies suffice, and no key is told.

MinIO stands behind a proxy that records every request. The output store gets temporary keys (STS).
"""

import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from minio import Minio
from minio.deleteobjects import DeleteObject

from devcluster.controlplane import free_ports
from devcluster.objectstore import Kind, ObjectStore
from finetune_trainer.config import (
    Columns,
    Dataset,
    EvaluationSpec,
    HeldOut,
    JobRef,
    ModelSource,
    Rendezvous,
    Run,
    StoreAccess,
    StoreRole,
    Stores,
    TrainConfig,
    Training,
    TrainSplit,
)
from finetune_trainer.contract import (
    CleanupPayload,
    FailureClass,
    PreparePayload,
    PublishPayload,
    Stage,
    TerminationMessage,
    signatures,
)
from finetune_trainer.paths import Paths
from tests.trainer.stages.test_prepare import lines, rows
from tests.trainer.storage import (
    give_keys,
    give_session_keys,
    root_client,
    session_keys,
    user_with_policies,
)
from tests.trainer.storeproxy import Request, StoreProxy

POLICIES = Path(__file__).parents[3] / "docs/security/policies"
CANARY = "canary7q"
"""Part of every key that the test chooses."""
UID = "0f8fad5b-d9cb-469f-a165-70867728950e"
NAMESPACE = "team-support"
RUNS = f".finetune-runs/{NAMESPACE}/{UID}/"
PUBLISHED = f"support/{NAMESPACE}/tickets/{UID[:8]}/"
UNFINISHED = (f"{RUNS}staging/unfinished", f"{PUBLISHED}unfinished")
FAILURES = 3
"""Failed attempts before the run."""
BUCKETS = {"datasets": "read-data", "models": "read-model", "tuned": "write-output"}
"""Buckets, and the policy of the only keys that the trainer has for each."""
ROLES: dict[StoreRole, str] = {"data": "read-data", "model": "read-model"}


def policy(name: str) -> str:
    """The text of a policy of the documentation."""
    return (POLICIES / f"{name}.json").read_text()


@dataclass
class Lived:
    """Everything that a run left where people and programs can read it."""

    requests: dict[Stage, list[Request]] = field(default_factory=dict)
    messages: dict[Stage, TerminationMessage] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    """All keys and tokens of the run."""
    shown: dict[str, str] = field(default_factory=dict)
    """Texts by where they are shown."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Every object of the buckets after Publish, by its path."""
    left: list[str] = field(default_factory=list)
    """Keys in the bucket of the output after Cleanup."""


@dataclass(frozen=True)
class Pods:
    """Runs stages as pods do, and collects what they show."""

    paths: Paths
    proxy: StoreProxy
    lived: Lived

    def run(self, config: TrainConfig, name: str = "") -> TerminationMessage:
        """Runs one stage to its end.

        Args:
            config: the configuration of the pod.
            name: where the texts of this pod are collected; the stage if empty.
        """
        name = name or str(config.stage)
        [port] = free_ports(1)
        self.paths.config.parent.mkdir(parents=True, exist_ok=True)
        self.paths.config.write_text(config.model_dump_json(by_alias=True))
        key = signatures.draw_key()
        self.paths.progress_key.write_text(key)
        before = len(self.proxy.requests)
        pod = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", "--root", self.paths.root, "--port", str(port)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "POD_UID": f"{name.lower()[:7]}-"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        served: list[str] = []
        try:
            said = _watch(pod, port, key, served)
        finally:
            pod.kill()
        told = self.paths.termination_log.read_bytes()
        message = TerminationMessage.decode(told)
        self.lived.requests[config.stage] = self.proxy.requests[before:]
        self.lived.messages[config.stage] = message
        self.lived.shown |= {
            f"log of {name}": said,
            f"termination message of {name}": told.decode(),
            f"configuration of {name}": self.paths.config.read_text(),
            f"/progress and /metrics of {name}": "\n".join(served),
        }
        return message


def _watch(pod: subprocess.Popen[bytes], port: int, key: str, served: list[str]) -> str:
    """Asks a pod for its progress and metrics until the pod ends; returns the log of the pod."""
    while True:
        try:
            return pod.communicate(timeout=0.5)[0].decode()
        except subprocess.TimeoutExpired:
            served += [text for path in ("progress", "metrics") if (text := _ask(port, path, key))]


def _ask(port: int, path: str, key: str) -> str:
    nonce = signatures.draw_nonce()
    headers = {
        signatures.NONCE_HEADER: nonce,
        signatures.SIGNATURE_HEADER: signatures.sign_request(key, nonce),
    }
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - http
            return f"{answer.headers}{answer.read().decode()}"
    except urllib.error.HTTPError:
        raise
    except OSError:
        return ""  # the pod does not listen yet, or no longer


@pytest.fixture(scope="module")
def minio(s3_servers: Callable[[Kind], ObjectStore]) -> ObjectStore:
    return s3_servers("minio")


@pytest.fixture(scope="module")
def root(minio: ObjectStore, tiny_base: Path) -> Iterator[Minio]:
    """The root user of MinIO, with the buckets of the policies."""
    client = root_client(minio)
    for bucket in BUCKETS:
        client.make_bucket(bucket)
    for path in tiny_base.iterdir():
        client.fput_object("models", f"encoder/{path.name}", str(path))
    _put(client, "datasets/support/train.jsonl", lines(*rows(120)))
    _put(client, "datasets/support/test.jsonl", lines(*rows(60, first=120)))
    yield client
    for bucket in BUCKETS:
        found = client.list_objects(bucket, recursive=True)
        assert list(client.remove_objects(bucket, [DeleteObject(str(o.object_name)) for o in found])) == []
        client.remove_bucket(bucket)


def _put(client: Minio, where: str, data: bytes) -> None:
    bucket, _, key = where.partition("/")
    client.put_object(bucket, key, io.BytesIO(data), len(data))


@pytest.fixture(scope="module")
def lived(minio: ObjectStore, root: Minio, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """Three failed attempts, then a whole run: Prepare, Train, Publish, Readback and Cleanup."""
    folder = tmp_path_factory.mktemp("keys")
    lived, paths = Lived(), Paths(folder / "root")
    for role, name in ROLES.items():
        user = (f"{CANARY}-{role}", f"{CANARY}-secret-of-{role}")
        user_with_policies(minio, folder, policy(name), user=user)
        give_keys(paths, role, *user)
        lived.secrets += user
    writer = user_with_policies(
        minio, folder, policy("write-output"), user=(f"{CANARY}-output", f"{CANARY}-secret-of-output")
    )
    session = session_keys(minio, writer)
    assert session.session_token
    give_session_keys(paths, "output", session)
    lived.secrets += [*writer, session.access_key, session.secret_key, session.session_token]
    with StoreProxy(minio) as proxy:
        pods, config = Pods(paths, proxy, lived), config_of(StoreAccess(endpoint=proxy.endpoint))
        _fail(pods, config, lived)
        _live(pods, config.model_copy(update={"attempt": FAILURES + 1}), root)
    lived.left = [str(entry.object_name) for entry in root.list_objects("tuned", recursive=True)]
    return lived


def _fail(pods: Pods, config: TrainConfig, lived: Lived) -> None:
    """Prepare with unknown keys, with a wrong secret key, and with a column that the data do not have."""
    user = lived.secrets[:2]
    for attempt, wrong in enumerate(
        [(f"{CANARY}-nobody", f"{CANARY}-nothing"), (user[0], f"{CANARY}-no")], 1
    ):
        give_keys(pods.paths, "data", *wrong)
        lived.secrets += wrong
        failed = config.model_copy(update={"attempt": attempt})
        assert pods.run(failed, f"wrong{attempt}").reason == "StorageDenied"
    give_keys(pods.paths, "data", user[0], user[1])
    dataset = config.run.dataset.model_copy(update={"columns": Columns(text="words")})
    run = config.run.model_copy(update={"dataset": dataset})
    failed = config.model_copy(update={"attempt": FAILURES, "run": run})
    assert pods.run(failed, f"wrong{FAILURES}").reason == "ColumnsMissing"


def _live(pods: Pods, config: TrainConfig, root: Minio) -> None:
    prepared = pods.run(config).payload
    assert isinstance(prepared, PreparePayload), pods.lived.shown
    rmtree(pods.paths.credentials("data"))  # only the pod of Prepare has the keys of the data
    chosen = {"chosen": prepared.chosen, "prepared": prepared.data_digest}
    for stage, more in (
        (Stage.TRAIN, chosen),
        (Stage.PUBLISH, chosen),
        (Stage.READBACK, {"readback_stage": Stage.TRAIN}),
    ):
        message = pods.run(config.model_copy(update={"stage": stage, **more}))
        assert message.failure is FailureClass.SUCCESS, (message, pods.lived.shown[f"log of {stage}"])
    for bucket in BUCKETS:
        for entry in root.list_objects(bucket, recursive=True):
            answer = root.get_object(bucket, str(entry.object_name))
            pods.lived.objects[f"{bucket}/{entry.object_name}"] = answer.read()
            answer.close()
            answer.release_conn()
    for key in UNFINISHED:
        root._create_multipart_upload("tuned", key, {})
    pods.run(config.model_copy(update={"stage": Stage.CLEANUP}))


def config_of(access: StoreAccess) -> TrainConfig:
    return TrainConfig(
        stage=Stage.PREPARE,
        attempt=1,
        job=JobRef(namespace=NAMESPACE, name="tickets", uid=UID, generation=1),
        run=Run(
            task="TextClassification",
            model=ModelSource(uri="s3://models/encoder"),
            dataset=Dataset(
                train=TrainSplit(uri="s3://datasets/support/"),
                validation=HeldOut(split=0.2),
                test=HeldOut(split=0.2),
            ),
            training=Training(epochs=1, batch_size=16, max_length=16, learning_rate=0.003),
            evaluation=EvaluationSpec(metrics=("accuracy",), primary_metric="accuracy"),
            output=f"s3://tuned/{PUBLISHED}",
            runs=f"s3://tuned/{RUNS}",
            stores=Stores(data=access, model=access, output=access),
        ),
        rendezvous=Rendezvous(master_port=free_ports(1)[0], startup_deadline_seconds=120),
        serve_metrics=True,
    )


def action_of(request: Request) -> tuple[str, str]:
    """The S3 action of a request, and the resource that the action needs."""
    bucket, _, key = request.path.lstrip("/").partition("/")
    resource = f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
    of_bucket = {"uploads": "s3:ListBucketMultipartUploads", "versions": "s3:ListBucketVersions"}
    match request.method:
        case "GET" if not key:
            asked = next((mark for mark in of_bucket if mark in request.query), "")
            return of_bucket.get(asked, "s3:ListBucket"), resource
        case "GET" | "HEAD":
            return "s3:GetObject", resource
        case "DELETE" if "uploadId" in request.query:
            return "s3:AbortMultipartUpload", resource
        case "POST" if "delete" in request.query:
            return "s3:DeleteObject", f"{resource}/{RUNS}"  # the body has the keys
        case "PUT" | "POST":
            return "s3:PutObject", resource
    raise AssertionError(request)


def statements(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(policy(name))["Statement"]
    return found


def test_every_stage_succeeds_and_cleanup_leaves_the_model(lived: Lived) -> None:
    published = lived.messages[Stage.PUBLISH].payload
    assert isinstance(published, PublishPayload)
    assert f"{published.uri.removeprefix('s3://')}manifest.json" in lived.objects
    cleanup = lived.messages[Stage.CLEANUP].payload
    assert isinstance(cleanup, CleanupPayload), lived.messages[Stage.CLEANUP]
    assert (cleanup.uploads, cleanup.versions_left) == (len(UNFINISHED), 0)
    assert cleanup.objects == sum(path.startswith(f"tuned/{RUNS}") for path in lived.objects)
    assert lived.left
    assert all(key.startswith(PUBLISHED) for key in lived.left)


@pytest.mark.parametrize(("bucket", "name"), BUCKETS.items())
def test_the_policies_grant_what_the_stages_use_and_nothing_else(
    lived: Lived, bucket: str, name: str
) -> None:
    used = {
        action_of(request)
        for requests in lived.requests.values()
        for request in requests
        if request.path.lstrip("/").partition("/")[0] == bucket
    }
    granted = [
        (action, resource)
        for statement in statements(name)
        for action in statement["Action"]
        for resource in statement["Resource"]
    ]
    # The deletion of versions begins with their listing, which a store may refuse.
    unexplained = [
        (action, resource)
        for action, resource in used
        if action != "s3:ListBucketVersions"
        and not any(action == allowed and fnmatchcase(resource, pattern) for allowed, pattern in granted)
    ]
    assert not unexplained
    unused = [
        (action, pattern)
        for action, pattern in granted
        if not any(action == asked and fnmatchcase(resource, pattern) for asked, resource in used)
    ]
    assert not unused


def test_only_prepare_reads_the_data(lived: Lived) -> None:
    readers = {
        stage
        for stage, requests in lived.requests.items()
        if any(request.path.startswith("/datasets") for request in requests)
    }
    assert readers == {Stage.PREPARE}


def test_no_key_is_told_anywhere(lived: Lived) -> None:
    """Logs, termination messages, configurations, progress, metrics, and all objects in the store."""
    assert len(lived.shown) == 4 * (FAILURES + 5)
    for stage in ("Prepare", "Train", "Publish"):
        assert "finetune_trainer_" in lived.shown[f"/progress and /metrics of {stage}"]
    names = set(lived.objects)
    for part in ("evidence/log-tail.txt", "result.json", "report.html", "README.md", "manifest.json"):
        assert any(part in name for name in names), part
    texts = {**lived.shown, **{name: data.decode("latin-1") for name, data in lived.objects.items()}}
    found = [
        f"{where}: ...{text[max(0, text.index(secret) - 80) :][:200]}"
        for where, text in texts.items()
        for secret in [CANARY, *lived.secrets]
        if secret in text
    ]
    assert not found, "\n".join(found)


def test_the_search_for_keys_would_find_them(lived: Lived) -> None:
    assert all(len(secret) > 8 for secret in lived.secrets)
    assert len({secret for secret in lived.secrets if CANARY not in secret}) == 3
