import os
import subprocess
import sys

import pytest

from finetune_trainer.config import (
    Dataset,
    EvaluationSpec,
    HeldOut,
    JobRef,
    ModelSource,
    Run,
    StoreAccess,
    Stores,
    TrainConfig,
    TrainSplit,
)
from finetune_trainer.contract import Stage
from finetune_trainer.paths import Paths
from finetune_trainer.pod.evidence import evidence, keep
from finetune_trainer.s3.store import Store


@pytest.fixture
def config(paths: Paths, access: StoreAccess, bucket: str) -> TrainConfig:
    run = Run(
        task="TextClassification",
        model=ModelSource(uri="s3://models/minilm/"),
        dataset=Dataset(
            train=TrainSplit(uri="s3://data/train.jsonl"),
            validation=HeldOut(split=0.1),
            test=HeldOut(split=0.1),
        ),
        evaluation=EvaluationSpec(metrics=("accuracy",)),
        output=f"s3://{bucket}/out/",
        runs=f"s3://{bucket}/runs/team/u-1/",
        stores=Stores(data=access, model=access, output=access),
    )
    job = JobRef(namespace="team", name="tickets", uid="u-1", generation=1)
    config = TrainConfig(stage=Stage.TRAIN, attempt=2, job=job, run=run)
    paths.config.parent.mkdir(parents=True, exist_ok=True)
    paths.config.write_text(config.model_dump_json(by_alias=True))
    return config


@pytest.fixture
def failed_pod(paths: Paths) -> Paths:
    paths.ranks.mkdir(parents=True)
    paths.stacks.mkdir()
    (paths.scratch / "log-tail.txt").write_text("the end")
    (paths.ranks / "0.json").write_text("{}")
    (paths.stacks / "0.txt").write_text("in work")
    (paths.stacks / "1.txt").write_text("")
    return paths


def test_evidence_contains_all_files_that_are_not_empty(failed_pod: Paths) -> None:
    names = [str(file.relative_to(failed_pod.scratch)) for file in evidence(failed_pod)]
    assert names == ["log-tail.txt", "ranks/0.json", "stacks/0.txt"]


def test_keep_uploads_the_evidence_beside_the_result_of_the_attempt(
    failed_pod: Paths, config: TrainConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_UID", "0123456789abcdef")
    keep(config, failed_pod)
    folder = f"{config.run.runs}attempts/train-2-01234567/evidence/"
    assert store.read(f"{folder}log-tail.txt") == b"the end"
    assert store.read(f"{folder}stacks/0.txt") == b"in work"
    assert len(list(store.list(folder))) == 3


def test_the_module_runs_as_a_program(failed_pod: Paths, config: TrainConfig, store: Store) -> None:
    command = [sys.executable, "-m", "finetune_trainer.pod.evidence", "--root", str(failed_pod.root)]
    subprocess.run(command, check=True, env={**os.environ, "POD_UID": "fedcba9876543210"})
    assert store.read(f"{config.run.runs}attempts/train-2-fedcba98/evidence/log-tail.txt") == b"the end"
