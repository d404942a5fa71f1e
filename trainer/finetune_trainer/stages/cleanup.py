"""The stage Cleanup: deletes the folder of a deleted run, but not the published model."""

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Activity, CleanupPayload, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import open_store
from finetune_trainer.s3.uris import UriError, parse
from finetune_trainer.stages.result import StageResult


def run(config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Deletes all objects below `run.runs`, and aborts unfinished uploads. The stage is idempotent.

    Raises:
        StageFailure: CleanupRefused, if `run.runs` is not the folder of this job.
    """
    _check_run_folder(config)
    runs = config.run.runs
    store = open_store(config.run.stores.output, "output", paths)
    heartbeat.beat(Activity.CLEANING_UP, percent=0)
    # Uploads are aborted first, because an upload that completes later would leave an object.
    uploads = sum(store.abort_uploads(folder) for folder in (runs, *_list_output_folders(config)))
    cleared = store.clear(runs, lambda share: heartbeat.beat(Activity.CLEANING_UP, percent=100 * share))
    payload = CleanupPayload(
        objects=cleared.objects,
        uploads=uploads,
        versions=cleared.versions,
        versions_left=cleared.versions_left,
    )
    return StageResult(payload, _format_message(runs, payload))


def _format_message(runs: str, done: CleanupPayload) -> str:
    versions = f", {done.versions:,} older versions and delete markers" if done.versions else ""
    removed = (
        f"{done.objects:,} objects below {runs}{versions} and {done.uploads:,} unfinished uploads of the run"
        " removed"
    )
    if not done.versions_left:
        return removed
    return (
        f"{removed}; at least {done.versions_left:,} older versions and delete markers stay, and with them"
        " their content. Give these keys s3:ListBucketVersions and s3:DeleteObjectVersion, or the bucket a"
        " lifecycle rule with NoncurrentVersionExpiration (admin guide, The bucket's lifecycle rules)."
    )


def _list_output_folders(config: TrainConfig) -> list[str]:
    """Returns the folder of the published model, unless other jobs can upload to this folder."""
    try:
        where = parse(config.run.output)
    except UriError:
        return []
    parent = f"/{where.key}".rstrip("/").rpartition("/")[0]
    return [f"{where.folder()}"] if parent.endswith(f"/{config.job.namespace}/{config.job.name}") else []


def _check_run_folder(config: TrainConfig) -> None:
    runs, own = config.run.runs, f"/{config.job.namespace}/{config.job.uid}/"
    try:
        where = parse(runs)
    except UriError as error:
        raise _refuse_cleanup(str(error)) from None
    if not all((config.job.namespace, config.job.uid)) or not f"/{where.key}".endswith(own):
        raise _refuse_cleanup(f"{runs} does not end in {own}")
    try:
        output = parse(config.run.output)
    except UriError:
        return
    if where.contains(output):
        raise _refuse_cleanup(f"{config.run.output}, the published model, lies inside {runs}")


def _refuse_cleanup(why: str) -> StageFailure:
    return StageFailure(
        FailureClass.INTERNAL,
        "CleanupRefused",
        f"Nothing was deleted: {why}.",
        "Delete the run's objects by hand.",
    )
