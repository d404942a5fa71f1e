"""The stage Cleanup: deletes the folder of a deleted run, and not the published model."""

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Activity, CleanupPayload, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import open_store
from finetune_trainer.s3.uris import UriError, parse
from finetune_trainer.stages.result import StageResult


def run(config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Deletes everything below `run.runs`, aborts uploads there and those of Publish. Again is harmless.

    Raises:
        StageFailure: CleanupRefused unless `run.runs` is this job's own folder.
    """
    _check(config)
    runs = config.run.runs
    store = open_store(config.run.stores.output, "output", paths)
    heartbeat.beat(Activity.CLEANING_UP, percent=0)
    # Uploads first: one that completed in between would otherwise stay behind as an object.
    uploads = sum(store.abort_uploads(folder) for folder in (runs, *_outputs(config)))
    cleared = store.clear(runs, lambda share: heartbeat.beat(Activity.CLEANING_UP, percent=100 * share))
    payload = CleanupPayload(
        objects=cleared.objects,
        uploads=uploads,
        versions=cleared.versions,
        versions_left=cleared.versions_left,
    )
    return StageResult(payload, _message(runs, payload))


def _message(runs: str, done: CleanupPayload) -> str:
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


def _outputs(config: TrainConfig) -> list[str]:
    """The folder that Publish uploads to, unless others may upload there too."""
    try:
        where = parse(config.run.output)
    except UriError:
        return []
    parent = f"/{where.key}".rstrip("/").rpartition("/")[0]
    return [f"{where.folder()}"] if parent.endswith(f"/{config.job.namespace}/{config.job.name}") else []


def _check(config: TrainConfig) -> None:
    runs, own = config.run.runs, f"/{config.job.namespace}/{config.job.uid}/"
    try:
        where = parse(runs)
    except UriError as error:
        raise _refused(str(error)) from None
    if not all((config.job.namespace, config.job.uid)) or not f"/{where.key}".endswith(own):
        raise _refused(f"{runs} does not end in {own}")
    try:
        output = parse(config.run.output)
    except UriError:
        return
    if where.contains(output):
        raise _refused(f"{config.run.output}, the published model, lies inside {runs}")


def _refused(why: str) -> StageFailure:
    return StageFailure(
        FailureClass.INTERNAL,
        "CleanupRefused",
        f"Nothing was deleted: {why}.",
        "Delete the run's objects by hand.",
    )
