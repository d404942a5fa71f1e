"""What holds before any work is done; tests/trainer/test_prepare.py shows that Prepare asks for it."""

import json
from typing import Any

import pytest

from finetune_trainer.config import Run, StoreAccess, TrainConfig
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.store import Store
from finetune_trainer.stages import preflight

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def run(
    output: str = "s3://tuned/ns/job/v1/",
    model: str = "s3://models/base",
    data: str = "s3://data/t.jsonl",
    **more: Any,
) -> Run:
    store = {"endpoint": "https://s3"}
    return Run.model_validate(
        {
            "task": "TextClassification",
            "model": {"uri": model},
            "dataset": {"train": {"uri": data}, "validation": {"split": 0.1}, "test": {"split": 0.1}},
            "evaluation": {"metrics": ["accuracy"]},
            "output": output,
            "runs": "s3://tuned/.finetune-runs/ns/uid/",
            "stores": {"data": store, "model": store, "output": store},
        }
        | more
    )


def splits(train: list[str]) -> dict[str, Any]:
    return {"train": {"uris": train}, "validation": {"split": 0.1}, "test": {"split": 0.1}}


def refusal(asked: Run) -> StageFailure:
    with pytest.raises(StageFailure) as failure:
        preflight.check_uris(asked)
    return failure.value


@pytest.mark.parametrize(
    "asked",
    [
        run(),
        run(output="s3://models/base-tuned/"),  # a name that begins alike is no folder of it
        run(output="s3://models/basement/x/"),
        run(output="s3://data/tuned/"),  # beside a file
        run(model="s3://models/base/"),
        run(data="s3://data/"),
        run(output="s3://data/tuned/", dataset=splits(["s3://data/a/", "s3://data/t"])),
    ],
)
def test_an_output_that_holds_no_input_and_lies_in_none_is_taken(asked: Run) -> None:
    preflight.check_uris(asked)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (run(output="s3://models/base/"), ("output: s3://models/base", "model.uri: s3://models/base")),
        (run(output="s3://models/base/v2/"), ("output: s3://models/base/v2", "model.uri")),
        (run(output="s3://models/", model="s3://models/a/b"), ("output: s3://models", "model.uri")),
        (run(output="s3://data/"), ("output: s3://data", "dataset.train.uri: s3://data/t.jsonl")),
        (run(runs="s3://models/"), ("output: s3://models/ ", "model.uri")),
        (
            run(output="s3://data/a/tuned/", data="s3://data/a/"),
            ("output: s3://data/a/tuned/", "dataset.train"),
        ),
        (
            run(output="s3://data/x/", data="s3://data/"),
            ("output: s3://data/x/", "dataset.train.uri: s3://data/"),
        ),
        (
            run(output="s3://data/a/tuned/", dataset=splits(["s3://data/b/", "s3://data/a/"])),
            ("output", "dataset.train.uris[1]: s3://data/a/"),
        ),
        (
            run(
                dataset={
                    "train": {"uri": "s3://data/t"},
                    "validation": {"uri": "s3://tuned/ns/job/v1/v"},
                    "test": {"split": 0.1},
                }
            ),
            ("output", "dataset.validation.uri"),
        ),
    ],
)
def test_an_output_that_lies_in_an_input_or_around_it_names_both(asked: Run, names: tuple[str, str]) -> None:
    failure = refusal(asked)
    assert failure.reason == "OutputIsInput"
    for name in names:
        assert name in failure.message
    assert failure.hint


def test_the_same_path_on_another_store_is_another_place() -> None:
    other, mine = {"endpoint": "https://other"}, {"endpoint": "https://s3"}
    preflight.check_uris(
        run(output="s3://models/base/", stores={"data": mine, "model": other, "output": mine})
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (run(model="s3://models/../secret"), "model.uri: "),
        (run(model="s3://models/%2e%2e/secret"), "model.uri: "),
        (run(model="s3:///base"), "model.uri: "),
        (run(data="s3://key:secret@data/t.jsonl"), "dataset.train.uri: "),
        (run(data="s3://data"), "dataset.train.uri: 's3://data' is a bucket"),
        (run(dataset=splits(["s3://data/a/", "s3://data/../b/"])), "dataset.train.uris[1]: "),
        (run(output="s3://tuned/../x/"), "output: "),
        (run(output="s3://tuned/x"), "output: 's3://tuned/x' does not end in a slash"),
    ],
)
def test_a_uri_that_can_be_misread_names_its_field(asked: Run, says: str) -> None:
    failure = refusal(asked)
    assert failure.reason == "UriInvalid"
    assert failure.message.startswith(says)


@pytest.fixture
def config(bucket: str, access: StoreAccess) -> TrainConfig:
    store = access.model_dump(by_alias=True)
    asked = run(
        output=f"s3://{bucket}/tuned/", stores={"data": store, "model": store, "output": store}
    ).model_copy(update={"runs": f"s3://{bucket}/.finetune-runs/ns/{UID}/"})
    job = {"namespace": "ns", "name": "job", "uid": UID, "generation": 1}
    return TrainConfig.model_validate({"stage": "Prepare", "attempt": 1, "job": job, "run": asked})


def test_a_folder_without_a_manifest_or_with_ones_own_is_free(store: Store, config: TrainConfig) -> None:
    preflight.check_output_free(store, config)
    store.write(f"{config.run.output}model.safetensors", b"of an attempt that was cut off")
    preflight.check_output_free(store, config)
    store.write(
        f"{config.run.output}manifest.json",
        json.dumps({"job": {"namespace": "ns", "name": "job", "uid": UID}}).encode(),
    )
    preflight.check_output_free(store, config)


@pytest.mark.parametrize(
    ("manifest", "whose"),
    [
        (b'{"job": {"namespace": "ns", "name": "job", "uid": "older"}}', "ns/job (uid older)"),
        (b'{"job": {"namespace": "ns"}}', "something else"),
        (b'{"job": "mine"}', "something else"),
        (b"[" * 100_000, "something else"),
        (b"\xff", "something else"),
        (b"", "something else"),
    ],
)
def test_a_manifest_of_anybody_else_is_respected_readable_or_not(
    store: Store, config: TrainConfig, manifest: bytes, whose: str
) -> None:
    store.write(f"{config.run.output}manifest.json", manifest)
    with pytest.raises(StageFailure, match="OutputExists") as failure:
        preflight.check_output_free(store, config)
    assert whose in failure.value.message
    assert "output.suffix" in failure.value.hint
    preflight.check_output_free(
        store,
        config.model_copy(
            update={"run": config.run.model_copy(update={"output": f"{config.run.output}v2/"})}
        ),
    )


def test_the_probe_leaves_nothing_behind(store: Store, config: TrainConfig) -> None:
    preflight.check_writable(store, config)
    assert store.list(config.run.runs) == []


def test_a_bucket_that_is_not_there_is_named(store: Store, config: TrainConfig) -> None:
    elsewhere = config.run.model_copy(update={"runs": f"s3://no-such-bucket/ns/{UID}/"})
    with pytest.raises(StageFailure, match="BucketMissing") as failure:
        preflight.check_writable(store, config.model_copy(update={"run": elsewhere}))
    assert "no-such-bucket" in failure.value.message
