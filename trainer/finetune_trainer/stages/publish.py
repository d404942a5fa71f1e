"""The stage Publish: verifies the staged model in a new process, and publishes the model with manifest."""

import json
import logging
from pathlib import Path
from shutil import copyfile, rmtree

from pydantic import JsonValue

from finetune_trainer.checkpoints.listing import all_checkpoints
from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import (
    Activity,
    Chosen,
    Digest,
    FailureClass,
    PreparePayload,
    PublishPayload,
    Stage,
    TrainPayload,
)
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat, beat_on_bytes
from finetune_trainer.models import generation_config
from finetune_trainer.models.base_model import digest_of_files
from finetune_trainer.paths import PREDICTIONS, RECORD, Paths
from finetune_trainer.report import model_card, page, serving
from finetune_trainer.report.page import Sources
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.s3 import results
from finetune_trainer.s3.digests import digest_of_file
from finetune_trainer.s3.manifest import Manifest, download_folder, upload_folder
from finetune_trainer.s3.store import Store, open_store
from finetune_trainer.s3.uploads import UPLOAD_SILENCE_SECONDS
from finetune_trainer.stages.preflight import check_output_free
from finetune_trainer.stages.result import StageResult
from finetune_trainer.tasks.registry import model_of, report_of

log = logging.getLogger(__name__)

CARD, REPORT, PAGE = "README.md", "report.json", "report.html"


def run(config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Verifies the staged model, and uploads the model to `run.output`. The stage is idempotent.

    Raises:
        StageFailure: UserConfig (OutputExists), Storage, Numerical, Internal.
    """
    heartbeat.beat(Activity.CHECKING_STORE, percent=0.0)
    store = open_store(config.run.stores.output, "output", paths)
    check_output_free(store, config)
    chosen, trained = _require_chosen(config), _find_train_result(store, config)
    staged_folder, folder = paths.scratch / "staged", paths.scratch / "published"
    for left in (staged_folder, folder):
        rmtree(left, ignore_errors=True)
    heartbeat.beat(Activity.LOADING, percent=5.0)
    staged = download_folder(
        store, trained.staging, staged_folder, beat_on_bytes(heartbeat, Activity.LOADING)
    )
    heartbeat.beat(Activity.VERIFYING, percent=30.0)
    # torch is imported after the quick checks, because the import takes seconds.
    from finetune_trainer.models.load import silence_libraries  # noqa: PLC0415
    from finetune_trainer.models.verify import verify  # noqa: PLC0415

    silence_libraries()
    checking = beat_on_bytes(heartbeat, Activity.VERIFYING)
    model_folder, difference = verify(
        config, model_of(config.run.task), paths, staged_folder, chosen.model_dtype, checking
    )
    log.info("reloaded from %s: the largest difference of a logit is %.1e", trained.staging, difference)
    uploading = max(UPLOAD_SILENCE_SECONDS, config.hang_timeout_seconds)
    on_bytes = beat_on_bytes(heartbeat, Activity.UPLOADING, uploading)
    heartbeat.beat(Activity.UPLOADING, percent=60.0, quiet_seconds=uploading)
    record = TrainingRecord.model_validate_json((staged_folder / RECORD).read_bytes())
    model_folder.rename(folder)
    digests = {path.name: digest_of_file(path, on_bytes) for path in sorted(folder.iterdir())}
    sources = Sources(config, chosen, staged, record, trained, _read_data_report(store, config))
    _assemble(staged_folder, folder, sources)
    _write_serving(folder, sources, digest_of_files(digests))
    manifest = Manifest.of(
        folder,
        job=config.job,
        created=staged.created,
        base_model=staged.base_model,
        data=staged.data,
        config=staged.config,
        lineage=staged.lineage,
        known=digests,
        on_bytes=on_bytes,
    )
    digest = upload_folder(store, folder, config.run.output, manifest, on_bytes)
    for name in (CARD, REPORT, PAGE):
        store.upload(folder / name, f"{config.run.runs}report/{name}", on_bytes)
    _delete_checkpoints(store, config)
    size = manifest.size + len(manifest.encode())
    payload = PublishPayload(
        uri=config.run.output, digest=digest, size_bytes=size, report=f"{config.run.output}{PAGE}"
    )
    return StageResult(
        payload,
        f"Published {size / 1e6:.1f} MB at {config.run.output}; reloaded and verified, "
        f"largest difference of a logit {difference:.1e}.",
    )


def _delete_checkpoints(store: Store, config: TrainConfig) -> None:
    """Deletes the checkpoints of Train and their unfinished uploads; a failure is only logged.

    No attempt resumes from the checkpoints any more.
    """
    folder = all_checkpoints(config.run.runs)
    try:
        store.clear(folder)
        store.abort_uploads(folder)
    except StageFailure as failure:
        log.warning("the checkpoints of Train stay until the cleanup: %s", failure.message)


def _require_chosen(config: TrainConfig) -> Chosen:
    if config.chosen is None:
        raise StageFailure(FailureClass.INTERNAL, "ChosenMissing", "the config carries no result of Prepare")
    return config.chosen


def _find_train_result(store: Store, config: TrainConfig) -> TrainPayload:
    message = results.find(store, config, Stage.TRAIN)
    if message is None or not isinstance(message.payload, TrainPayload):
        raise StageFailure(
            FailureClass.STORAGE,
            "TrainResultMissing",
            f"no result of Train with this configuration lies below {config.run.runs}attempts/",
            "something deleted it; apply the job again under another name",
        )
    return message.payload


def _read_data_report(store: Store, config: TrainConfig) -> JsonValue:
    """Reads the data report; null if the report is missing."""
    message = results.find(store, config, Stage.PREPARE)
    if message is None or not isinstance(message.payload, PreparePayload):
        return None
    if store.head(message.payload.report) is None:
        return None
    document: JsonValue = json.loads(store.read(message.payload.report))
    return document


def _assemble(staged_folder: Path, folder: Path, sources: Sources) -> None:
    """Adds model card, configuration, report and predictions to the folder of the model."""
    config, chosen, staged, record = sources.config, sources.chosen, sources.staged, sources.record
    (folder / "evaluation").mkdir()
    copyfile(staged_folder / PREDICTIONS, folder / "evaluation" / PREDICTIONS)
    (folder / CARD).write_text(model_card.render(config, chosen, staged, record, report_of(config.run.task)))
    (folder / PAGE).write_text(page.render(sources, report_of(config.run.task)), encoding="utf-8")
    _write_json(
        folder / "finetune-config.json",
        {
            "job": config.job.model_dump(mode="json", by_alias=True),
            "run": config.run.model_dump(mode="json", by_alias=True),
            "chosen": chosen.model_dump(mode="json", by_alias=True),
            "lineage": [ancestor.model_dump(mode="json", by_alias=True) for ancestor in staged.lineage],
        },
    )
    _write_json(folder / REPORT, {**record.model_dump(mode="json", by_alias=True), "data": sources.data})


def _write_serving(folder: Path, sources: Sources, digest: Digest) -> None:
    """Writes the files with which servers serve the model."""
    task = report_of(sources.config.run.task)
    names = serving.list_names(sources.config, task)
    model = serving.ServedModel(
        digest=digest,
        base_digest=sources.staged.base_model,
        weight_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        stops=generation_config.list_stop_texts(folder) if "Modelfile" in names else (),
    )
    files = serving.render(sources.config, sources.chosen, model, task)
    if files:
        (folder / serving.FOLDER).mkdir()
    for name, text in files.items():
        (folder / serving.FOLDER / name).write_text(text, encoding="utf-8")


def _write_json(path: Path, document: JsonValue) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
