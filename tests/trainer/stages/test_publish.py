"""Publishing against a real S3 server: what Train staged is verified before anything is published."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from minio import Minio
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from finetune_trainer.checkpoints.listing import all_checkpoints
from finetune_trainer.config import Lora, ModelSource, ParentJob, TrainConfig
from finetune_trainer.contract import Best, Chosen, FailureClass, PublishPayload, Stage, TrainPayload
from finetune_trainer.data.shards import Prepared
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import base_model, lineage, lora, methods
from finetune_trainer.models.padding import choose_pad_token
from finetune_trainer.paths import Paths
from finetune_trainer.report.record import CurvePoint, EvaluationRow
from finetune_trainer.s3 import results
from finetune_trainer.s3.digests import digest_of_file
from finetune_trainer.s3.manifest import MANIFEST, Manifest, ManifestFile, read_manifest
from finetune_trainer.s3.store import Store
from finetune_trainer.stages import publish
from finetune_trainer.tasks.base import BaselineKey
from finetune_trainer.tasks.registry import training_task
from finetune_trainer.tasks.text_classification import model as task
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.classifier import load_classifier
from finetune_trainer.training import staging
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import Gang
from finetune_trainer.training.fit import Tuned
from finetune_trainer.training.staging import Outcome
from tests.trainer.conftest import success
from tests.trainer.storage import on_both_stores, uploads_of
from tests.trainer.training.contexts import FLOAT32

HEARTBEAT = SimpleNamespace(beat=lambda *_args, **_fields: None, leave_requested=False)
CHOSEN = Chosen(
    epochs=1,
    batch_size=8,
    micro_batch_size=4,
    accumulation_steps=2,
    world_size=1,
    learning_rate=0.01,
    max_length=16,
    zero_stage=0,
    total_steps=13,
)


Stager = Callable[[TrainConfig], TrainConfig]


@pytest.fixture
def stage(tiny_base: Path, learnable: Prepared, paths: Paths, store: Store) -> Stager:
    """Ends the Train of a run; the tuned model is an untrained one, which is as good here."""

    def end(config: TrainConfig) -> TrainConfig:
        torch.manual_seed(5)
        model = load_classifier(tiny_base, learnable.labels, torch.float32)
        model = methods.apply_method(config.run.method, model, task.head(model), seed=5).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if ".lora_B." in name:
                    weight.normal_(std=0.1)
        methods.merge_if_requested(config.run.method, model, torch.float32)
        truth = learnable.test.labels.astype(np.int64)
        random = np.random.default_rng(2)
        pad_id = choose_pad_token(tiny_base).number
        inputs = task.collate(learnable.test, range(len(truth)), pad_id, None)
        with torch.no_grad():
            logits = task.predict(model, inputs).numpy()
        predictions = random.integers(0, 3, len(truth))
        digest = "sha256:" + "1" * 64
        key = BaselineKey(
            task="TextClassification",
            model=digest,
            data=digest,
            max_length=16,
            primary_metric="macroF1",
            precision="float32",
            seed=42,
            code="1",
        )
        probe = Probe(
            key=key,
            test_rows=41,
            majority=0,
            strength=1.0,
            validation=0.5,
            rows=101,
            predictions=tuple(predictions),
        )
        best = Best(step=13, metric=0.5)
        history = (EvaluationRow(epoch=1, step=13, training_loss=1.0, validation=0.5),)
        point = CurvePoint(step=13, loss=1.0, gradient_norm=2.0, learning_rate=0.0, rows_per_second=11.0)
        tuned = Tuned(
            best,
            "s3://none/",
            history,
            (point,),
            steps=13,
            epochs=1.0,
            seconds=9.0,
            rows_per_second=11.0,
            tokens_per_second=80.0,
        )
        context = Context(
            config=config,
            chosen=CHOSEN,
            paths=paths,
            heartbeat=HEARTBEAT,
            gang=Gang(0, 0, 1, torch.device("cpu")),
            store=store,
            prepared=learnable,
            data_digest=digest,
            base=tiny_base,
            base_digest=digest,
            pad_id=pad_id,
            dtypes=FLOAT32,
            task=training_task("TextClassification"),
        )
        outcome = Outcome(model, logits, (), probe, reused=False, tuned=tuned)
        staging.save_model(context, model)
        record = staging.build_record(context, outcome)
        uri = staging.upload(context, outcome, record, lambda _share: None)
        payload = TrainPayload(
            best=best, evaluation=record.evaluation, staging=uri, peak_memory_bytes=1, gpu_seconds=0
        )
        results.save(store, config, Stage.TRAIN, success(config, Stage.TRAIN, payload))
        return config.model_copy(update={"stage": Stage.PUBLISH})

    return end


@pytest.fixture
def staged(
    given_run: Callable[..., TrainConfig], tiny_base: Path, learnable: Prepared, stage: Stager
) -> TrainConfig:
    """A run whose Train has ended."""
    return stage(given_run(tiny_base, learnable, CHOSEN))


def staging_of(config: TrainConfig, store: Store) -> str:
    message = results.find(store, config, Stage.TRAIN)
    assert message
    assert isinstance(message.payload, TrainPayload)
    return message.payload.staging


def restage(store: Store, staging: str, path: str, file: Path) -> None:
    """Puts another file into the staging folder, with a manifest that names its true digest."""
    store.upload(file, staging + path)
    manifest = read_manifest(store, staging)
    assert manifest
    entry = ManifestFile(path=path, size=file.stat().st_size, digest=digest_of_file(file))
    files = tuple(entry if one.path == path else one for one in manifest.files)
    store.write(staging + MANIFEST, manifest.model_copy(update={"files": files}).encode())


def published(store: Store, config: TrainConfig) -> dict[str, bytes]:
    return {
        entry.uri.removeprefix(config.run.output): store.read(entry.uri)
        for entry in store.list(config.run.output)
    }


@on_both_stores
def test_the_published_folder_is_whole_loads_alone_and_says_what_it_is(
    staged: TrainConfig, paths: Paths, store: Store, s3_admin: Minio, tmp_path: Path
) -> None:
    checkpoints = all_checkpoints(staged.run.runs)
    store.write(f"{checkpoints}0123456789abcdef/00000013-1-pod/manifest.json", b"{}")
    bucket, _, folder = checkpoints.removeprefix("s3://").partition("/")
    unfinished = f"{folder}0123456789abcdef/00000014-1-pod/00000.safetensors"
    s3_admin._create_multipart_upload(bucket, unfinished, {})
    result = publish.run(staged, paths, HEARTBEAT)
    payload = result.payload
    assert isinstance(payload, PublishPayload)
    assert store.list(checkpoints) == []
    assert uploads_of(s3_admin, bucket, unfinished) == 0
    files = published(store, staged)
    manifest = Manifest.model_validate_json(files[MANIFEST])
    assert {file.path for file in manifest.files} == files.keys() - {MANIFEST}
    assert payload.size_bytes == sum(map(len, files.values()))
    assert manifest.job == staged.job
    folder = tmp_path / "used"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    card = files["README.md"].decode()
    for text in ("95 %", manifest.base_model, manifest.data, "majority class", "linear probe", "Limits"):
        assert text in card
    config = json.loads(files["finetune-config.json"])
    assert config["chosen"]["batchSize"] == 8
    assert "accessKey" not in files["finetune-config.json"].decode()
    report = json.loads(files["report.json"])
    assert report["data"] == {"findings": []}
    assert np.sum(report["task"]["confusion"]["tuned"]) == 41
    assert len(files["evaluation/predictions.jsonl"].splitlines()) == 41
    page = files["report.html"].decode()
    assert payload.report == f"{staged.run.output}report.html"
    assert store.read(f"{staged.run.runs}report/report.html").decode() == page
    assert report["task"]["examples"][0]["text"] in page
    assert report["curve"][0]["gradientNorm"] == 2.0


@on_both_stores
def test_publishing_again_after_a_crash_before_the_manifest_ends_with_the_same_bytes(
    staged: TrainConfig, paths: Paths, store: Store
) -> None:
    first = publish.run(staged, paths, HEARTBEAT).payload
    before = published(store, staged)
    store.delete([staged.run.output + MANIFEST, staged.run.output + "README.md"])
    assert publish.run(staged, paths, HEARTBEAT).payload == first
    assert published(store, staged) == before


def test_a_model_tells_all_that_it_descends_from(
    staged: TrainConfig, stage: Stager, paths: Paths, store: Store, tmp_path: Path
) -> None:
    first = publish.run(staged, paths, HEARTBEAT).payload
    assert isinstance(first, PublishPayload)
    parent = ParentJob(namespace="team", name="tickets", uid=staged.job.uid, manifest=first.digest)
    changes = {
        "model": ModelSource(uri=first.uri, parent=parent),
        "output": staged.run.output.replace("/tuned/", "/again/"),
        "runs": staged.run.runs.replace("/runs/", "/runs-again/"),
    }
    run = staged.run.model_copy(update=changes)
    job = staged.job.model_copy(update={"name": "again", "uid": "of-another"})
    config = staged.model_copy(update={"stage": Stage.TRAIN, "job": job, "run": run})
    kept = lineage.keep_parent(run, store, store)
    assert kept
    folder = tmp_path / "base"
    lineage.check_files(first.uri, kept, folder, base_model.download(store, first.uri, folder))

    publish.run(stage(config), paths, HEARTBEAT)

    files = published(store, config)
    origin, base = Manifest.model_validate_json(files[MANIFEST]).lineage
    assert (origin.uri, origin.published_by) == (staged.run.model.uri, None)
    assert (base.uri, base.published_by) == (first.uri, parent)
    told = json.loads(files["finetune-config.json"])
    assert [ancestor["uri"] for ancestor in told["lineage"]] == [origin.uri, base.uri]
    assert told["run"]["model"]["parent"]["uid"] == staged.job.uid
    card = files["README.md"].decode()
    for text in (origin.uri, base.uri, f"FineTuneJob team/tickets (uid {parent.uid}", parent.manifest):
        assert text in card


def test_a_model_of_another_run_is_never_overwritten(staged: TrainConfig, paths: Paths, store: Store) -> None:
    other = staged.job.model_copy(update={"uid": "somebody-else"})
    theirs = read_manifest(store, staging_of(staged, store))
    assert theirs
    store.write(staged.run.output + MANIFEST, theirs.model_copy(update={"job": other}).encode())
    with pytest.raises(StageFailure, match="OutputExists") as caught:
        publish.run(staged, paths, HEARTBEAT)
    assert caught.value.failure is FailureClass.USER_CONFIG


@pytest.mark.parametrize("fault", ["bit flipped", "not a number", "other weights", "manifest gone"])
def test_a_damaged_staging_folder_is_found_and_nothing_is_published(
    fault: str, staged: TrainConfig, paths: Paths, store: Store, tmp_path: Path
) -> None:
    staging, name = staging_of(staged, store), "model/model.safetensors"
    file = tmp_path / "model.safetensors"
    store.download(staging + name, file)
    if fault == "bit flipped":
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        store.write(staging + name, bytes(data))
    elif fault == "manifest gone":
        store.delete([staging + MANIFEST])
    else:
        weights = load_file(file)
        weights["classifier.weight"][0, 0] = torch.nan if fault == "not a number" else 0.5
        save_file(weights, file, metadata={"format": "pt"})
        restage(store, staging, name, file)
    reasons = {
        "bit flipped": (FailureClass.STORAGE, "ObjectCorrupt"),
        "not a number": (FailureClass.NUMERICAL, "NonFiniteWeights"),
        "other weights": (FailureClass.INTERNAL, "VerificationFailed"),
        "manifest gone": (FailureClass.STORAGE, "FolderIncomplete"),
    }
    with pytest.raises(StageFailure) as caught:
        publish.run(staged, paths, HEARTBEAT)
    assert (caught.value.failure, caught.value.reason) == reasons[fault]
    assert store.list(staged.run.output) == []


@pytest.fixture
def adapted(
    given_run: Callable[..., TrainConfig], tiny_base: Path, learnable: Prepared, stage: Stager
) -> TrainConfig:
    """A run whose Train has left an adapter, to be merged."""
    return stage(given_run(tiny_base, learnable, CHOSEN, Lora(rank=4, alpha=8, merge=True)))


@pytest.mark.parametrize(
    "fault", ["not a number", "other adapter", "other head", "weight missing", "base changed"]
)
def test_an_adapter_that_is_not_the_one_that_was_trained_is_found_and_nothing_is_published(
    fault: str, adapted: TrainConfig, paths: Paths, store: Store, tmp_path: Path
) -> None:
    staging, name = staging_of(adapted, store), "model/adapter_model.safetensors"
    file = tmp_path / "adapter.safetensors"
    store.download(staging + name, file)
    weights = load_file(file)
    changed = next(key for key in weights if key.endswith("value.lora_B.weight"))
    match fault:
        case "not a number":
            weights[changed][0, 0] = torch.nan
        case "other adapter":
            weights[changed] *= 1.5
        case "other head":
            weights["base_model.model.classifier.weight"][0, 0] += 0.01
        case "weight missing":
            del weights[changed]
        case "base changed":
            store.write(f"{adapted.run.model.uri}/tokenizer_config.json", b"{}")
    save_file(weights, file, metadata={"format": "pt"})
    restage(store, staging, name, file)
    reasons = {
        "not a number": (FailureClass.NUMERICAL, "NonFiniteWeights"),
        "other adapter": (FailureClass.INTERNAL, "VerificationFailed"),
        "other head": (FailureClass.INTERNAL, "VerificationFailed"),
        "weight missing": (FailureClass.INTERNAL, "ModelIncomplete"),
        "base changed": (FailureClass.USER_CONFIG, "ModelChanged"),
    }
    with pytest.raises(StageFailure) as caught:
        publish.run(adapted, paths, HEARTBEAT)
    assert (caught.value.failure, caught.value.reason) == reasons[fault]
    assert store.list(adapted.run.output) == []


def test_a_merged_model_other_than_its_adapter_is_found_and_nothing_is_published(
    adapted: TrainConfig, paths: Paths, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def badly(model: Any, dtype: torch.dtype) -> None:
        for module in model.modules():
            if hasattr(module, "lora_A"):
                module.scaling["default"] *= 1.5
        merged(model, dtype)

    merged = lora.merge_adapter
    monkeypatch.setattr(lora, "merge_adapter", badly)
    with pytest.raises(StageFailure, match="VerificationFailed"):
        publish.run(adapted, paths, HEARTBEAT)
    assert store.list(adapted.run.output) == []
