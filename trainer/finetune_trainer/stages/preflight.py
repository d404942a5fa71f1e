"""IO: checks URIs, permissions and the output folder at the start of Prepare."""

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
    """Checks that every URI is valid, and that output folders and inputs do not contain each other.

    Raises:
        StageFailure: UriInvalid, OutputIsInput.
    """
    uris = {field: _parse_uri(field, uri) for field, uri in _list_uri_fields(run)}
    endpoints = {"model": run.stores.model.endpoint, "dataset": run.stores.data.endpoint}
    for written in ("output", "runs"):
        for field, where in uris.items():
            if endpoints.get(field.partition(".")[0]) != run.stores.output.endpoint:
                continue
            # A data file is a single object: the output can be a sibling, but not a parent folder.
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
    """Checks that the output folder does not contain the model of another job.

    Raises:
        StageFailure: OutputExists, with the name of the other job.
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
    """Checks that the credentials can write, read and delete objects in the folder of the run."""
    uri = f"{config.run.runs}probe-{writer()}"
    store.write(uri, b"written to see whether it can be\n")
    store.read(uri)
    store.delete([uri])


def _list_uri_fields(run: Run) -> Iterator[tuple[str, str]]:
    yield "output", run.output
    yield "runs", run.runs
    yield "model.uri", run.model.uri
    for named in list_uris(run.dataset).values():
        yield from named.items()


def _parse_uri(field: str, uri: str) -> S3Uri:
    try:
        where = parse(uri)
    except UriError as error:
        raise _invalid_uri(f"{field}: {error}.") from None
    if field.startswith("dataset") and not where.key and not uri.endswith("/"):
        raise _invalid_uri(
            f"{field}: {uri!r} is a bucket; with a slash at its end it is all that lies in it."
        )
    if field in {"output", "runs"} and not uri.endswith("/"):
        raise _invalid_uri(f"{field}: {uri!r} does not end in a slash.")
    return where


def _invalid_uri(message: str) -> StageFailure:
    return StageFailure(
        FailureClass.USER_CONFIG, "UriInvalid", message, "Write s3://<bucket>/<key> with a plain path."
    )
