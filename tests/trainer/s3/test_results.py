import io

import pytest
from minio import Minio

from finetune_trainer.config import StoreAccess, TrainConfig
from finetune_trainer.contract import CleanupPayload, FailureClass, Stage, TerminationMessage
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import results
from finetune_trainer.s3.store import Store
from finetune_trainer.stages import cleanup, readback
from tests.trainer.storage import on_both_stores, uploads_of

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"


class Silent:
    leave_requested = False

    def beat(self, *_: object, **__: object) -> None:
        pass


def config_of(
    bucket: str, access: StoreAccess, *, seed: int = 42, runs: str = "", reported: str | None = None
) -> TrainConfig:
    store = access.model_dump(by_alias=True)
    return TrainConfig.model_validate(
        {
            "stage": "Readback" if reported else "Cleanup",
            "attempt": 1,
            "job": {"namespace": "ns", "name": "job", "uid": UID, "generation": 1},
            "readbackStage": reported,
            "run": {
                "task": "TextClassification",
                "model": {"uri": f"s3://{bucket}/model"},
                "dataset": {
                    "train": {"uri": f"s3://{bucket}/t"}, "validation": {"split": 0.1}, "test": {"split": 0.1}
                },
                "training": {"seed": seed},
                "evaluation": {"metrics": ["accuracy"]},
                "output": f"s3://{bucket}/tuned/",
                "runs": runs or f"s3://{bucket}/.finetune-runs/ns/{UID}/",
                "stores": {"data": store, "model": store, "output": store},
            },
        }
    )  # fmt: skip


def message(
    config: TrainConfig, attempt: int, failure: FailureClass = FailureClass.SUCCESS
) -> TerminationMessage:
    return TerminationMessage(
        stage=Stage.TRAIN,
        attempt=attempt,
        config_digest=config.run.digest(),
        failure=failure,
        reason="Done",
        message=f"attempt {attempt}",
        payload=CleanupPayload(objects=1, uploads=0),
    )


@on_both_stores
def test_find_returns_the_latest_success_of_stage_and_config(
    store: Store, bucket: str, access: StoreAccess
) -> None:
    config = config_of(bucket, access)
    assert results.find(store, config, Stage.TRAIN) is None
    results.save(store, config, Stage.TRAIN, message(config, 1), {"rows": [1, 2]})
    ref = results.save(store, config, Stage.TRAIN, message(config, 2))
    results.save(store, config, Stage.TRAIN, message(config, 3, FailureClass.NUMERICAL))
    results.save(store, config, Stage.TRAIN, message(config_of(bucket, access, seed=1), 4))
    results.save(store, config, Stage.PREPARE, message(config, 5))
    store.write(f"{config.run.runs}attempts/train-6-12345678/result.json", b"not a result")
    store.write(f"{config.run.runs}attempts/train-7-12345678/result.json", b"[" * 100_000)
    found = results.find(store, config, Stage.TRAIN)
    assert found is not None
    assert (found.attempt, found.result) == (2, ref)
    assert b'"rows": [1, 2]' in store.read(f"{config.run.runs}attempts/train-1-00000000/result.json")


def test_two_pods_of_one_attempt_write_to_different_folders(
    store: Store, bucket: str, access: StoreAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(bucket, access)
    uris = set()
    for uid in ("aaaaaaaa-1", "bbbbbbbb-1"):
        monkeypatch.setenv("POD_UID", uid)
        uris.add(results.save(store, config, Stage.TRAIN, message(config, 1)).uri)
    assert {uri.rpartition("attempts/")[2] for uri in uris} == {
        "train-1-aaaaaaaa/result.json",
        "train-1-bbbbbbbb/result.json",
    }


@on_both_stores
def test_readback_returns_the_stored_result(
    store: Store, bucket: str, access: StoreAccess, paths: Paths
) -> None:
    config = config_of(bucket, access, reported="Train")
    with pytest.raises(StageFailure, match="ResultMissing"):
        readback.run(config, paths, Silent())
    results.save(store, config, Stage.TRAIN, message(config, 1))
    told = readback.run(config, paths, Silent())
    assert (told.message, told.payload) == ("attempt 1", CleanupPayload(objects=1, uploads=0))


@on_both_stores
def test_cleanup_deletes_only_the_run_and_is_idempotent(
    store: Store, s3_admin: Minio, bucket: str, access: StoreAccess, paths: Paths
) -> None:
    config = config_of(bucket, access)
    for key in ("attempts/a/result.json", "prepared/x/index.json", "staging/w/model.safetensors", "deep/er/"):
        s3_admin.put_object(bucket, f".finetune-runs/ns/{UID}/{key}", io.BytesIO(), 0)
    s3_admin._create_multipart_upload(bucket, f".finetune-runs/ns/{UID}/staging/w/big", {})
    others = [
        f"s3://{bucket}/{key}" for key in ("tuned/manifest.json", f".finetune-runs/ns/{UID}x/a", "model/a")
    ]
    for uri in others:
        store.write(uri, b"x")
    assert cleanup.run(config, paths, Silent()).payload == CleanupPayload(objects=4, uploads=1)
    assert sorted(entry.uri for entry in store.list(f"s3://{bucket}/")) == sorted(others)
    assert cleanup.run(config, paths, Silent()).payload == CleanupPayload(objects=0, uploads=0)


@on_both_stores
@pytest.mark.parametrize(
    ("output", "cleaned_up"),
    [("tuned/ns/job/v1/", 1), ("ns/job/v1/", 1), ("tuned/ns/other/v1/", 0), ("tuned/", 0), ("", 0)],
)
def test_cleanup_aborts_unfinished_uploads_of_publish(
    store: Store,
    s3_admin: Minio,
    bucket: str,
    access: StoreAccess,
    paths: Paths,
    output: str,
    cleaned_up: int,
) -> None:
    key = f"{output}model.safetensors"
    s3_admin._create_multipart_upload(bucket, key, {})
    store.write(f"s3://{bucket}/{output}config.json", b"published")
    config = config_of(bucket, access)
    run = config.run.model_copy(update={"output": f"s3://{bucket}/{output}"})
    payload = cleanup.run(config.model_copy(update={"run": run}), paths, Silent()).payload
    assert payload == CleanupPayload(objects=0, uploads=cleaned_up)
    assert uploads_of(s3_admin, bucket, key) == 1 - cleaned_up
    assert store.read(f"s3://{bucket}/{output}config.json") == b"published"


@pytest.mark.parametrize("path", ["", "runs/", f"runs/{UID}/", f"ns/{UID}", f"x/../ns/{UID}/"])
def test_cleanup_refuses_a_folder_of_another_job(
    store: Store, bucket: str, access: StoreAccess, paths: Paths, path: str
) -> None:
    store.write(f"s3://{bucket}/runs/precious", b"x")
    with pytest.raises(StageFailure, match="CleanupRefused"):
        cleanup.run(config_of(bucket, access, runs=f"s3://{bucket}/{path}"), paths, Silent())
    assert store.read(f"s3://{bucket}/runs/precious") == b"x"
