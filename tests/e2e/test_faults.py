"""A gang that is struck in five ways while it trains ends with the scores of a gang that nobody strikes."""

import os
import signal
from typing import Any

from tests.e2e.scene import (
    SLOW_SECONDS,
    Manifest,
    Scene,
    attempts,
    kill_operator,
    log,
    processes,
    succeeded,
    tiny,
    training,
    until,
)

LONG: dict[str, Any] = {"training": {"epochs": 100}, "resources": {"nodes": 2}}
RESTART_SECONDS = 300
"""For the end of an attempt, or a restart in place, on a busy machine, also while the operator starts."""


def train_attempts(job: Manifest) -> list[Manifest]:
    return [a for a in job["status"]["attempts"] if a["stage"] == "Train"]


def strike_in_five_ways(scene: Scene, name: str) -> None:
    """Kills a rank, the operator, a supervisor, all pods without a grace period, and deletes a pod."""

    def over(number: int) -> bool:
        return len(attempts(scene.job(name))) > number + 1

    pods = training(scene, name, count=2)
    runs = scene.runs(scene.job(name)["metadata"]["uid"])

    def checkpoints() -> list[str]:
        return [key for key in scene.objects(f"{runs}checkpoints/") if key.endswith("/manifest.json")]

    def resumed_in_place() -> bool:
        (attempt,) = train_attempts(scene.job(name))
        return "inPlaceRestarts" in attempt and "resumedFromStep" in attempt

    def has_steps(number: int) -> bool:
        job = scene.job(name)
        attempt, progress = train_attempts(job)[-1], job["status"].get("progress", {})
        return attempt["number"] == number and "resumedFromStep" in attempt and "step" in progress

    until("a checkpoint is complete", SLOW_SECONDS, checkpoints)
    os.kill(processes(pods[1], "finetune_trainer.pod.rank")[-1], signal.SIGKILL)
    until("the ranks have resumed in their pods", RESTART_SECONDS, resumed_in_place)
    same = training(scene, name, count=2)
    assert {pod["metadata"]["uid"] for pod in same} == {pod["metadata"]["uid"] for pod in pods}

    kill_operator(scene)
    os.kill(processes(same[0], "finetune_trainer")[0], signal.SIGKILL)
    until("attempt 1 is over", RESTART_SECONDS, lambda: over(1))

    training(scene, name, count=2, attempt=2)
    until("the operator knows the step of attempt 2", RESTART_SECONDS, lambda: has_steps(2))
    scene.kubectl("delete", "pods", "-l", "finetune.dev/stage=Train", "--force", "--grace-period=0")
    until("attempt 2 is over", RESTART_SECONDS, lambda: over(2))

    last = training(scene, name, count=2, attempt=3)[1]["metadata"]["name"]
    scene.kubectl("delete", "pod", last, "--wait=false")


def test_a_gang_that_is_struck_in_five_ways_has_the_scores_of_one_that_is_not(scene: Scene) -> None:
    scene.apply(tiny("whole", scene, **LONG))
    whole = succeeded(scene, "whole")
    scene.apply(tiny("struck", scene, **LONG))
    strike_in_five_ways(scene, "struck")
    job = succeeded(scene, "struck")
    tries = train_attempts(job)
    for attempt in tries:
        log.info("%s", attempt)
    assert [a["number"] for a in tries] == [1, 2, 3, 4]
    first, second, third, fourth = tries
    assert first["inPlaceRestarts"]["count"] == 1
    assert first["inPlaceRestarts"]["class"] == "Internal"
    assert first["inPlaceRestarts"]["reason"] == "RankKilled"
    assert (first["reason"], first["exitCode"]) == ("TrainerDied", 137)
    # The kubelet may still send SIGTERM, and a pod may live until its finalizer is removed.
    assert second["reason"] in {"PodLost", "Preempted", "TrainerDied"}
    assert third["reason"] == "Preempted"
    assert third["checkpointStep"] == third["step"], "a pod that receives SIGTERM saves a checkpoint"
    assert third["lostSteps"] == 0
    resumed = [a["resumedFromStep"] for a in tries]
    assert 0 < resumed[0] <= resumed[1] <= resumed[2] <= resumed[3] == third["checkpointStep"]
    # A killed process may have completed a checkpoint that the operator does not know of.
    assert all(step >= a["checkpointStep"] for step, a in zip(resumed[1:], tries[:-1], strict=True))
    assert all(a["lostSteps"] == a["step"] - a["checkpointStep"] for a in tries[:-1])
    assert fourth["outcome"] == "Succeeded"
    assert attempts(job)[-1] == ("Publish", 1, "Succeeded")

    assert job["status"]["evaluation"] == whole["status"]["evaluation"]
    for figure in ("bestStep", "bestValidation"):
        assert job["status"]["training"][figure] == whole["status"]["training"][figure]
