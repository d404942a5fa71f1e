"""What a job waits for: its true reason within a minute, and it goes on by itself once that is mended."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from examples import demo
from tests.e2e.scene import SLOW_SECONDS, Manifest, Scene, condition, log, state_of, tiny, until

Waiting = dict[str, tuple[Scene, Manifest, float]]
PROMISE_SECONDS = 60
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "none"},
    "spec": {"hard": {"pods": "0"}},
}
REASONS = {
    "no-secret": ("SecretMissing", "Secret {namespace}/s3"),
    "no-key": ("KeyMissing", "secretKey"),
    "no-authority": ("ConfigMapMissing", "ConfigMap {namespace}/storage-ca"),
    "no-image": ("ImagePullFailed", "registry.local:5000/no-such-trainer:v0"),
    "no-quota": ("QuotaExceeded", "pods=0"),
    "no-gpu": ("Unschedulable", "nvidia.com/gpu"),
}


def shown(scene: Scene, reason: str) -> Manifest | None:
    job = scene.job("wait")
    return job if condition(job, "Running")["reason"] == reason else None


@pytest.fixture(scope="module")
def waiting(new_scene: Callable[..., Scene]) -> Waiting:
    """Six jobs that wait side by side: for each, the job as it first told its reason, and after how long."""
    scenes = {
        "no-gpu": new_scene("no-gpu"),
        "no-secret": new_scene("no-secret", keys=False),
        "no-key": new_scene("no-key", keys=False),
        "no-authority": new_scene("no-authority", authority=False),
        "no-image": new_scene("no-image"),
        "no-quota": new_scene("no-quota"),
    }
    scenes["no-key"].kubectl("create", "secret", "generic", "s3", "--from-literal=accessKey=only-this")
    scenes["no-quota"].apply(QUOTA)
    changes: dict[str, Manifest] = {"no-image": {"profile": "no-image"}, "no-gpu": {"gpusPerNode": 1}}
    began = {}
    for what, scene in scenes.items():
        scene.apply(tiny("wait", scene, resources={"profile": "small"} | changes.get(what, {})))
        began[what] = time.monotonic()
    seen: Waiting = {}
    deadline = time.monotonic() + 150
    while len(seen) < len(scenes) and time.monotonic() < deadline:
        for what, scene in scenes.items():
            if what not in seen and (job := shown(scene, REASONS[what][0])):
                took = time.monotonic() - began[what]
                if what == "no-gpu":  # it is asked for when Prepare is done
                    start = next(a["startTime"] for a in job["status"]["attempts"] if a["stage"] == "Train")
                    took = (datetime.now(UTC) - datetime.fromisoformat(start)).total_seconds()
                log.info("%s after %.0f s: %s", what, took, state_of(job))
                seen[what] = scene, job, took
        time.sleep(0.5)
    return seen


@pytest.mark.parametrize("what", REASONS)
def test_the_reason_is_told_within_a_minute(waiting: Waiting, what: str) -> None:
    reason, words = REASONS[what]
    assert what in waiting, f"{reason} was not seen at all"
    scene, job, took = waiting[what]
    assert took < PROMISE_SECONDS
    assert job["status"]["state"] == "Waiting"
    assert words.format(namespace=scene.namespace) in job["status"]["message"]
    events = scene.all_of("Event")
    ours = [e for e in events if e["regarding"]["kind"] == "FineTuneJob" and e["reason"] == reason]
    assert len(ours) == 1, ours


@pytest.fixture(scope="module")
def mended(waiting: Waiting) -> Waiting:
    """The same jobs after what four of them waited for was put right."""
    for what in ("no-secret", "no-key"):
        scene = waiting[what][0]
        demo.give_keys(scene.target, scene.namespace, "s3")
    scene = waiting["no-authority"][0]
    demo.give_authority(scene.target, scene.namespace, "storage-ca")
    more = '{"spec":{"hard":{"pods":"10"}}}'
    waiting["no-quota"][0].kubectl("patch", "resourcequota", "none", "--type=merge", "-p", more)
    return waiting


@pytest.mark.parametrize("what", ["no-secret", "no-key", "no-authority", "no-quota"])
def test_it_goes_on_by_itself_once_that_is_mended(mended: Waiting, what: str) -> None:
    scene = mended[what][0]

    def prepared() -> bool:
        return bool(condition(scene.job("wait"), "Prepared")["status"] == "True")

    until("Prepare succeeds", SLOW_SECONDS, prepared, lambda: state_of(scene.job("wait")))
    assert [a["number"] for a in scene.job("wait")["status"]["attempts"] if a["stage"] == "Prepare"] == [1]
    scene.kubectl("delete", "ftj", "wait")
