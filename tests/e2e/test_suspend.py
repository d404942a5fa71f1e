"""Suspend, resume and an early end while training, on real pods."""

from tests.e2e.conftest import GRACE_SECONDS
from tests.e2e.scene import (
    SLOW_SECONDS,
    Manifest,
    Scene,
    attempts,
    condition,
    log,
    pods_gone,
    state_of,
    succeeded,
    tiny,
    training,
    until,
)


def test_a_training_is_suspended_resumed_and_ended_early(scene: Scene) -> None:
    scene.apply(tiny("pause", scene, training={"epochs": 1000}, resources={"nodes": 2}))
    training(scene, "pause", count=2)
    scene.kubectl("patch", "ftj", "pause", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    log.info("pods were gone after %.1f s", pods_gone(scene, seconds=GRACE_SECONDS, ended=False))

    def suspended() -> Manifest | None:
        job = scene.job("pause")
        return job if condition(job, "Suspended")["status"] == "True" else None

    job = until("suspended", SLOW_SECONDS, suspended, lambda: state_of(scene.job("pause")))
    assert job["status"]["state"] == "Suspended"
    assert condition(job, "Running")["status"] == "False"
    assert attempts(job) == [("Prepare", 1, "Succeeded"), ("Train", 1, "Suspended")]
    scene.kubectl("patch", "ftj", "pause", "--type=merge", "-p", '{"spec":{"suspend":false}}')

    def trains_on() -> bool:
        status = scene.job("pause")["status"]
        tries = [a for a in status["attempts"] if a["stage"] == "Train"]
        return len(tries) == 2 and bool(status.get("progress", {}).get("step", 0) > tries[0]["step"])

    until("training goes on", SLOW_SECONDS, trains_on, lambda: state_of(scene.job("pause")))
    scene.kubectl("patch", "ftj", "pause", "--type=merge", "-p", '{"spec":{"finishTraining":true}}')
    job = succeeded(scene, "pause")
    assert attempts(job) == [
        ("Prepare", 1, "Succeeded"),
        ("Train", 1, "Suspended"),
        ("Train", 2, "Suspended"),
        ("Train", 3, "Succeeded"),
        ("Publish", 1, "Succeeded"),
    ]
    assert condition(job, "Suspended")["status"] == "False"
    first, second, third = (a for a in job["status"]["attempts"] if a["stage"] == "Train")
    assert second["resumedFromStep"] == first["checkpointStep"] == first["step"]
    assert first["lostSteps"] == second["lostSteps"] == 0
    assert second["reason"] == "FinishedByUser"
    assert third["finishCause"] == "spec.finishTraining is set."
    assert 0 < third["step"] <= second["checkpointStep"]
    assert 0 < job["status"]["training"]["bestStep"] <= second["checkpointStep"]
