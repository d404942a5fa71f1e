"""IO: checks URIs, permissions and the output before any work."""

import json
from collections.abc import Iterator

from finetune_trainer.config import Run, TrainConfig
from finetune_trainer.contract import FailureClass
from finetune_trainer.data.sources import list_uris
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.results import writer
from finetune_trainer.s3.store import Store
from finetune_trainer.s3.uris import S3Uri, UriError, parse

MANIFEST = "manifest.json"


def check_uris(run: Run) -> None:
    """Every uri can be read, and nothing is written into or around what is read.

    Raises:
        StageFailure: UriInvalid, OutputIsInput.
    """
    uris = {field: _parsed(field, uri) for field, uri in _fields(run)}
    endpoints = {"model": run.stores.model.endpoint, "dataset": run.stores.data.endpoint}
    for written in ("output", "runs"):
        for field, where in uris.items():
            if endpoints.get(field.partition(".")[0]) != run.stores.output.endpoint:
                continue
            # A data file is one object: writing beside it is fine, writing around it is not.
            folder = field == "model.uri" or not where.key or where.key.endswith("/")
            inside = folder and where.contains(uris[written])
            if inside or uris[written].contains(where):
                raise StageFailure(
                    FailureClass.USER_CONFIG,
                    "OutputIsInput",
                    f"output: {uris[written]} and {field}: {where} lie one in the other.",
                    "Write to a folder that holds no input and lies in none.",
                )


def check_output_free(store: Store, config: TrainConfig) -> None:
    """The output folder is empty of other jobs' models.

    Raises:
        StageFailure: OutputExists names whose model is there.
    """
    uri = config.run.output + MANIFEST
    if store.head(uri) is None:
        return
    try:
        job = json.loads(store.read(uri))["job"]
        whose, uid = f"{job['namespace']}/{job['name']}", job["uid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        whose, uid = "something else", None
    if uid != config.job.uid:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "OutputExists",
            f"output: {config.run.output} already holds the model of {whose} (uid {uid}).",
            "Set output.suffix or another output.uri, or delete that model.",
        )


def check_writable(store: Store, config: TrainConfig) -> None:
    """The run's folder takes an object, gives it back and lets it be deleted."""
    uri = f"{config.run.runs}probe-{writer()}"
    store.write(uri, b"written to see whether it can be\n")
    store.read(uri)
    store.delete([uri])


def _fields(run: Run) -> Iterator[tuple[str, str]]:
    yield "output", run.output
    yield "runs", run.runs
    yield "model.uri", run.model.uri
    for named in list_uris(run.dataset).values():
        yield from named.items()


def _parsed(field: str, uri: str) -> S3Uri:
    try:
        where = parse(uri)
    except UriError as error:
        raise _invalid(f"{field}: {error}.") from None
    if field.startswith("dataset") and not where.key and not uri.endswith("/"):
        raise _invalid(f"{field}: {uri!r} is a bucket; with a slash at its end it is all that lies in it.")
    if field in {"output", "runs"} and not uri.endswith("/"):
        raise _invalid(f"{field}: {uri!r} does not end in a slash.")
    return where


def _invalid(message: str) -> StageFailure:
    return StageFailure(
        FailureClass.USER_CONFIG, "UriInvalid", message, "Write s3://<bucket>/<key> with a plain path."
    )
