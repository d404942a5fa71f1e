"""Prepare and Publish while the store, or what lies before it, is sick: right bytes or none."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import get_args

import pytest
from minio import Minio

from devcluster.objectstore import Kind, ObjectStore
from finetune_trainer.config import StoreAccess, TrainConfig
from finetune_trainer.contract import CleanupPayload, FailureClass, Stage
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import retries
from finetune_trainer.s3.manifest import MANIFEST, Manifest
from finetune_trainer.s3.store import Store, open_store
from finetune_trainer.stages import cleanup, prepare, publish
from tests.trainer.stages import test_prepare, test_publish
from tests.trainer.stages.test_prepare import Job, Silent
from tests.trainer.stages.test_publish import HEARTBEAT, published, restage, staging_of
from tests.trainer.storage import on_both_stores, uploads_of
from tests.trainer.storeproxy import Fault, Operation, StoreProxy

pytestmark = pytest.mark.usefixtures("hasty")

REASONS: dict[Fault, str] = {
    "refuse": "StorageUnreachable",
    "reset": "StorageUnreachable",
    "reset in body": "StorageUnreachable",
    "hang": "StorageUnreachable",
    "stall": "StorageUnreachable",
    "slow down": "StorageThrottled",
    "error": "StorageError",
    "truncate": "StorageUnreachable",
    "flip": "ObjectCorrupt",
    "lose answer": "StorageUnreachable",
}
OF_A_READING = ("reset in body", "stall", "truncate")
"""What can only befall an answer that has a body."""
BEFORE_THE_STORE = ("refuse", "reset", "hang", "slow down", "error")
"""What no store hears of: which one it is makes no difference."""

on_the_stores = pytest.mark.parametrize(
    ("s3", "fault"),
    [
        (kind, fault)
        for fault in REASONS
        for kind in get_args(Kind)
        if kind == get_args(Kind)[0] or fault not in BEFORE_THE_STORE
    ],
    indirect=True,
)

job = test_prepare.job
stage, staged = test_publish.stage, test_publish.staged


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """What the store suffers; an answer that never comes is not waited for."""
    suffered: Fault = request.param
    if suffered in {"hang", "stall"}:
        request.getfixturevalue("impatient")
    return suffered


@pytest.fixture
def access(s3_proxy: StoreProxy) -> StoreAccess:
    """The trainer reaches its store through the proxy."""
    return StoreAccess(endpoint=s3_proxy.endpoint)


@pytest.fixture
def direct(s3: ObjectStore, paths: Paths) -> Store:
    """The store without the proxy."""
    return open_store(StoreAccess(endpoint=s3.endpoint, ca_bundle=True), "output", paths)


def fails(stage: Callable[[], object], fault: Fault) -> None:
    with pytest.raises(StageFailure) as caught:
        stage()
    assert (caught.value.failure, caught.value.reason) == (FailureClass.STORAGE, REASONS[fault])


def stumble(fault: Fault, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the first request of each kind suffers; if nobody listens, until the second pause.

    Listings have no digest: flipped bits of theirs are a matter of TLS.
    """
    if fault != "refuse":
        kinds = set(get_args(Operation)) - ({"list"} if fault == "flip" else set())
        proxy.suffer(fault, *kinds, times=1)
        return
    pauses: list[float] = []

    def sleep(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 2:
            proxy.heal()

    proxy.suffer(fault)
    monkeypatch.setattr(retries, "sleep", sleep)


def contents(store: Store, uri: str) -> dict[str, bytes]:
    return {entry.uri.removeprefix(uri): store.read(entry.uri) for entry in store.list(uri)}


@on_the_stores
def test_prepare_ends_with_the_right_rows_or_says_what_the_store_does(
    fault: Fault, job: Job, s3_proxy: StoreProxy, direct: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job.config()
    well = prepare.run(config, job.paths, Silent()).payload
    assert well
    rows = contents(direct, well.prepared)
    direct.delete([entry.uri for entry in direct.list(config.run.runs)])

    s3_proxy.suffer(fault, "get", below="/model/")
    fails(lambda: prepare.run(config, job.paths, Silent()), fault)
    s3_proxy.heal()
    if fault not in OF_A_READING:
        s3_proxy.suffer(fault, "put", below="/validation-")
        fails(lambda: prepare.run(config, job.paths, Silent()), fault)
        s3_proxy.heal()
    assert "index.json" not in contents(direct, well.prepared)

    stumble(fault, s3_proxy, monkeypatch)
    assert prepare.run(config, job.paths, Silent()).payload == well
    assert contents(direct, well.prepared) == rows


@on_the_stores
def test_publish_ends_with_the_right_model_or_none(
    fault: Fault,
    staged: TrainConfig,
    paths: Paths,
    s3_proxy: StoreProxy,
    direct: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    well = publish.run(staged, paths, HEARTBEAT).payload
    model = published(direct, staged)
    direct.delete([entry.uri for entry in direct.list(staged.run.output)])

    s3_proxy.suffer(fault, "get", below="/staging/")
    fails(lambda: publish.run(staged, paths, HEARTBEAT), fault)
    s3_proxy.heal()
    assert published(direct, staged) == {}
    if fault not in OF_A_READING:
        s3_proxy.suffer(fault, "put", below="/models/tuned/tokenizer")
        fails(lambda: publish.run(staged, paths, HEARTBEAT), fault)
        s3_proxy.heal()
        assert MANIFEST not in published(direct, staged)
        s3_proxy.suffer(fault, "put", below=MANIFEST)
        fails(lambda: publish.run(staged, paths, HEARTBEAT), fault)
        s3_proxy.heal()
        there = published(direct, staged)
        assert MANIFEST not in there or there == model

    stumble(fault, s3_proxy, monkeypatch)
    assert publish.run(staged, paths, HEARTBEAT).payload == well
    assert published(direct, staged) == model


@pytest.fixture
def in_parts(
    staged: TrainConfig, stage: test_publish.Stager, bucket: str, direct: Store, tmp_path: Path
) -> TrainConfig:
    """A run whose staged folder holds a file that travels in parts, in the places that the operator names."""
    job = staged.job
    place = {
        "output": f"s3://{bucket}/models/{job.namespace}/{job.name}/v1/",
        "runs": f"s3://{bucket}/.finetune-runs/{job.namespace}/{job.uid}/",
    }
    config = stage(staged.model_copy(update={"run": staged.run.model_copy(update=place)}))
    large = tmp_path / "predictions.jsonl"
    large.write_bytes(os.urandom(3 * 1024 * 1024).hex().encode())
    restage(direct, staging_of(config, direct), large.name, large)
    return config


@on_both_stores
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("fault", "step", "reasons"),
    [
        ("reset", "put part", {"StorageUnreachable"}),
        ("flip", "put part", {"ObjectCorrupt"}),
        # Asked again, one store says that it has ended the upload, the other that it knows of none.
        ("truncate", "complete upload", {"StorageUnreachable", "StorageError"}),
        ("lose answer", "complete upload", {"StorageUnreachable", "StorageError"}),
    ],
)
def test_a_model_that_is_published_in_parts_is_whole_or_not_there_and_its_parts_are_swept(
    fault: Fault,
    step: Operation,
    reasons: set[str],
    *,
    in_parts: TrainConfig,
    paths: Paths,
    s3_proxy: StoreProxy,
    s3_admin: Minio,
    bucket: str,
    direct: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("finetune_trainer.s3.uploads.TRIES", 2)
    s3_proxy.suffer(fault, step, "abort upload")
    with pytest.raises(StageFailure) as caught:
        publish.run(in_parts, paths, HEARTBEAT)
    assert caught.value.failure is FailureClass.STORAGE
    assert caught.value.reason in reasons
    s3_proxy.heal()
    assert MANIFEST not in published(direct, in_parts)
    key = f"{in_parts.run.output}evaluation/predictions.jsonl".removeprefix(f"s3://{bucket}/")
    left = uploads_of(s3_admin, bucket, key)

    publish.run(in_parts, paths, HEARTBEAT)
    files = published(direct, in_parts)
    manifest = Manifest.model_validate_json(files[MANIFEST])
    assert {file.path: file.digest for file in manifest.files} == {
        path: "sha256:" + sha256(data).hexdigest() for path, data in files.items() if path != MANIFEST
    }
    cleaned_up = cleanup.run(in_parts.model_copy(update={"stage": Stage.CLEANUP}), paths, HEARTBEAT).payload
    assert isinstance(cleaned_up, CleanupPayload)
    assert cleaned_up.uploads == left
    assert uploads_of(s3_admin, bucket, key) == 0
    assert published(direct, in_parts) == files
