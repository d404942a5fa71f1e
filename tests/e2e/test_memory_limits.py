"""A model of 305 million bfloat16 parameters in pods in which a float32 copy of the model would not fit."""

import json
import logging
from collections.abc import Callable, Iterator

import pytest
from minio import Minio

from bench.rehearsal.job import make_spec, upload_model, upload_rows
from bench.rehearsal.random_model import LARGE_VOCABULARY
from examples import demo
from tests.e2e import scene as scenes
from tests.e2e.conftest import PROFILES
from tests.e2e.scene import END_SECONDS, INPUTS, OUTPUTS, Manifest, Scene, condition, until

log = logging.getLogger(__name__)
TOKENS = 64
GIB = 2**30
TRAIN, PREPARE, PUBLISH = "1900Mi", "1600Mi", "2600Mi"
"""Memory of the pods. The weights are 0.57 GiB in bfloat16, and 1.14 GiB in float32."""


@pytest.fixture(scope="module")
def inputs(installed: demo.Target, store: Minio) -> Iterator[None]:
    profile = {"cpuStages": {"cpu": "900m", "memory": PREPARE}, "maxMemory": PUBLISH}
    profiles = {**PROFILES, "narrow": profile}
    demo.install(installed, "--set-json", f"settings.profiles={json.dumps(profiles)}")
    upload_model(store, INPUTS, "large-vocabulary", LARGE_VOCABULARY)
    upload_rows(store, INPUTS, "random-rows", TOKENS)
    yield
    for entry in store.list_objects(INPUTS, "large-vocabulary/", recursive=True):
        store.remove_object(INPUTS, str(entry.object_name))
    demo.install(installed, "--set-json", f"settings.profiles={json.dumps(PROFILES)}")


@pytest.mark.usefixtures("inputs")
def test_no_process_holds_a_float32_copy_of_the_model(new_scene: Callable[..., Scene]) -> None:
    scene = new_scene("memory")
    scene.apply(_job(scene))
    job = until("the job", END_SECONDS, lambda: _finished(scene), lambda: scenes.state_of(scene.job("large")))
    assert condition(job, "Succeeded")["status"] == "True", scenes.state_of(job)
    status = job["status"]
    assert status["chosen"]["modelDtype"] == "bfloat16"
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["Succeeded"] * 3
    log.info("%s", json.dumps({"memory": status["memory"], "attempts": status["attempts"]}, indent=1))


def _finished(scene: Scene) -> Manifest | None:
    job = scene.job("large")
    return job if condition(job, "Finished")["status"] == "True" else None


def _job(scene: Scene) -> Manifest:
    spec = make_spec(INPUTS, "large-vocabulary", "random-rows", TOKENS, TRAIN, "900m")
    spec["resources"]["profile"] = "narrow"
    spec["output"] = {"uri": f"s3://{OUTPUTS}/tuned/", "suffix": "v1", "mergeAdapter": True}
    spec["storage"] = scenes.tiny("large", scene)["spec"]["storage"]
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "large", "namespace": scene.namespace},
        "spec": spec,
    }
