"""Real S3 servers with TLS by an authority of their own, one of a kind in a test run, one bucket a test."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import pytest
from minio import Minio
from minio.deleteobjects import DeleteObject

from devcluster.objectstore import Kind, ObjectStore, object_store
from finetune_trainer.config import (
    Dataset,
    EvaluationSpec,
    HeldOut,
    JobRef,
    Method,
    ModelSource,
    Rendezvous,
    Run,
    StoreAccess,
    StoreRole,
    Stores,
    TrainConfig,
    Training,
    TrainSplit,
    World,
)
from finetune_trainer.contract import (
    PRIMARY_METRIC,
    Chosen,
    FailureClass,
    Findings,
    MetricName,
    Payload,
    PreparePayload,
    RowCounts,
    Stage,
    Task,
    TerminationMessage,
)
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.models import base_model
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import results
from finetune_trainer.s3.store import Store, open_store
from tests.trainer import forks
from tests.trainer.storage import give_authority, give_keys, root_client
from tests.trainer.stored import store_prepared
from tests.trainer.storeproxy import StoreProxy


@pytest.fixture(scope="session")
def s3_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], ObjectStore]]:
    """Starts the server of a kind when it is first asked for."""
    with ExitStack() as running:
        yield cache(lambda kind: running.enter_context(object_store(tmp_path_factory.mktemp(kind), kind)))


@pytest.fixture
def s3(request: pytest.FixtureRequest, s3_servers: Callable[[Kind], ObjectStore]) -> ObjectStore:
    """MinIO, or with `on_both_stores` one after the other."""
    return s3_servers(getattr(request, "param", "minio"))


@pytest.fixture
def s3_admin(s3: ObjectStore) -> Minio:
    """minio-py as the server's root user."""
    return root_client(s3)


@pytest.fixture
def bucket(s3_admin: Minio) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    s3_admin.make_bucket(name)
    yield name
    left = [DeleteObject(str(entry.object_name)) for entry in s3_admin.list_objects(name, recursive=True)]
    assert list(s3_admin.remove_objects(name, left)) == []
    s3_admin.remove_bucket(name)


@pytest.fixture
def s3_proxy(s3: ObjectStore) -> Iterator[StoreProxy]:
    """Stands before the server of `s3`, and does no harm until it is told to."""
    with StoreProxy(s3) as proxy:
        yield proxy


@pytest.fixture
def access(s3: ObjectStore) -> StoreAccess:
    return StoreAccess(endpoint=s3.endpoint, ca_bundle=True)


@pytest.fixture
def paths(tmp_path: Path, s3: ObjectStore) -> Paths:
    """A trainer's root folder with keys and authority of all three roles."""
    root = Paths(tmp_path / "root")
    assert s3.ca_file
    for role in get_args(StoreRole):
        give_keys(root, role, s3.access_key, s3.secret_key)
        give_authority(root, role, s3.ca_file.read_bytes())
    return root


@pytest.fixture
def store(access: StoreAccess, paths: Paths) -> Store:
    return open_store(access, "output", paths)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their pauses."""
    monkeypatch.setattr("finetune_trainer.s3.retries.sleep", lambda _: None)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of the least size that S3 allows, in bytes: what is larger travels in several."""
    size = 5 * 1024 * 1024
    monkeypatch.setattr("finetune_trainer.s3.uploads.PART_BYTES", size)
    monkeypatch.setattr("finetune_trainer.s3.downloads.RANGE_BYTES", size)
    return size


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come is given up soon; stores that are opened from here on."""
    monkeypatch.setattr("finetune_trainer.s3.clients._READ_SECONDS", 0.3)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 11,000 random weights with a tokenizer of 50 words; made once, loads in no time."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    forks.run("tests.trainer.programs.tiny_bert", str(folder)).check_returncode()
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 40,000 random weights with a chat template; made once, loads in no time."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    forks.run("tests.trainer.programs.tiny_llama", str(folder)).check_returncode()
    return folder


@pytest.fixture
def given_run(store: Store, bucket: str, access: StoreAccess) -> Callable[..., TrainConfig]:
    """Makes what Prepare leaves for Train: base model, tokenised rows, and its result."""

    def make(
        base: Path,
        prepared: Prepared,
        chosen: Chosen,
        method: Method = "Full",
        task: Task = "TextClassification",
        metrics: tuple[MetricName, ...] = ("accuracy", "macroF1", "mcc"),
        **training: object,
    ) -> TrainConfig:
        home = f"s3://{bucket}/"
        for path in base.iterdir():
            if path.name in {"config.json", "model.safetensors", *base_model.COPIED_FILES}:
                store.upload(path, f"{home}base/{path.name}")
        with TemporaryDirectory() as folder:
            model_digest = base_model.download(store, f"{home}base/", Path(folder))
        data_digest = "sha256:" + secrets.token_hex(32)
        rows = {name: len(getattr(prepared, name)) for name in ("train", "validation", "test")}
        run = Run(
            task=task,
            model=ModelSource(uri=f"{home}base"),
            dataset=Dataset(
                train=TrainSplit(uri=f"{home}train.jsonl"),
                validation=HeldOut(split=0.1),
                test=HeldOut(uri=f"{home}test.jsonl"),
            ),
            method=method,
            training=Training.model_validate(training),
            zero_stage=chosen.zero_stage,
            world=World(processes_per_node=chosen.world_size),
            evaluation=EvaluationSpec(metrics=metrics, primary_metric=PRIMARY_METRIC[task]),
            output=f"{home}models/tuned/",
            runs=f"{home}runs/",
            stores=Stores(data=access, model=access, output=access),
        )
        config = TrainConfig(
            stage=Stage.TRAIN,
            attempt=1,
            job=JobRef(namespace="team", name="tickets", uid=secrets.token_hex(8), generation=1),
            run=run,
            chosen=chosen,
            prepared=data_digest,
            hang_timeout_seconds=120,
            rendezvous=Rendezvous(startup_deadline_seconds=120),
        )
        folder_uri = f"{home}runs/prepared/{data_digest.removeprefix('sha256:')[:16]}/"
        store_prepared(store, folder_uri, prepared)
        store.write(f"{folder_uri}report.json", b'{"findings": []}')
        payload = PreparePayload(
            data_digest=data_digest,
            model_digest=model_digest,
            prepared=folder_uri,
            rows=RowCounts(**rows, dropped=0),
            labels=len(prepared.labels),
            tokens=len(prepared.train.tokens),
            truncated_tokens=0,
            parameters=1,
            chosen=chosen,
            findings=Findings(),
            report=f"{folder_uri}report.json",
        )
        results.save(store, config, Stage.PREPARE, success(config, Stage.PREPARE, payload))
        return config

    return make


def success(config: TrainConfig, stage: Stage, payload: Payload) -> TerminationMessage:
    return TerminationMessage(
        stage=stage,
        attempt=config.attempt,
        config_digest=config.run.digest(),
        failure=FailureClass.SUCCESS,
        reason="Done",
        message="done",
        payload=payload,
    )


@pytest.fixture
def learnable() -> Prepared:
    """Three classes that a tiny model can tell apart: one word of each row gives its class away."""
    random = np.random.default_rng(11)

    def split(rows: int, first_line: int) -> Split:
        counts = random.integers(3, 12, rows)
        labels = np.arange(rows) % 3
        tokens = [
            np.concatenate([[2 + label], random.integers(10, 50, count - 1)])
            for count, label in zip(counts, labels, strict=True)
        ]
        return Split(
            tokens=np.concatenate(tokens).astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            labels=labels.astype(np.int32),
            rows=np.arange(first_line, first_line + rows).astype(np.int64),
            loss_mask=np.zeros(counts.sum(), dtype=np.bool_),
        )

    return Prepared(split(101, 1), split(31, 102), split(41, 1), ("blue", "green", "red"))
