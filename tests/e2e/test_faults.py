"""What happens to a running gang when a process is killed or a pod is deleted by hand."""

import os
import signal

from tests.e2e.scene import (
    SLOW_SECONDS,
    Scene,
    attempts,
    log,
    processes,
    succeeded,
    tiny,
    training,
    until,
)


def test_after_a_killed_rank_a_killed_pod_and_a_deleted_pod_training_resumes(scene: Scene) -> None:
    scene.apply(tiny("struck", scene, training={"epochs": 100}, resources={"nodes": 2}))

    def over(number: int) -> bool:
        return len(attempts(scene.job("struck"))) > number + 1

    pods = training(scene, "struck", count=2)
    runs = scene.runs(scene.job("struck")["metadata"]["uid"])

    def resumed_in_place() -> bool:
        (attempt,) = [a for a in scene.job("struck")["status"]["attempts"] if a["stage"] == "Train"]
        return "inPlaceRestarts" in attempt and "resumedFromStep" in attempt

    def checkpoints() -> list[str]:
        return [name for name in scene.objects(f"{runs}checkpoints/") if name.endswith("/manifest.json")]

    until("a checkpoint is complete", SLOW_SECONDS, checkpoints)
    rank = processes(pods[1], "finetune_trainer.pod.rank")[-1]
    os.kill(rank, signal.SIGKILL)
    until("the ranks have resumed in their pods", 120, resumed_in_place)
    same = training(scene, "struck", count=2)
    assert {pod["metadata"]["uid"] for pod in same} == {pod["metadata"]["uid"] for pod in pods}

    first = processes(same[0], "finetune_trainer")[0]
    os.kill(first, signal.SIGKILL)
    until("attempt 1 is over", 120, lambda: over(1))

    name = training(scene, "struck", count=2, attempt=2)[1]["metadata"]["name"]
    scene.kubectl("delete", "pod", name, "--wait=false")
    job = succeeded(scene, "struck")
    tries = [a for a in job["status"]["attempts"] if a["stage"] == "Train"]
    for attempt in tries:
        log.info("%s", attempt)
    assert [a["number"] for a in tries] == [1, 2, 3]
    assert tries[0]["inPlaceRestarts"]["count"] == 1
    assert tries[0]["inPlaceRestarts"]["class"] == "Internal"
    assert tries[0]["inPlaceRestarts"]["reason"] == "RankKilled"
    assert tries[0]["reason"] == "TrainerDied"
    assert tries[0]["exitCode"] == 137
    assert tries[1]["reason"] == "Preempted"
    assert tries[1]["checkpointStep"] == tries[1]["step"], "a pod that receives SIGTERM saves a checkpoint"
    assert tries[1]["lostSteps"] == 0
    resumed = [a["resumedFromStep"] for a in tries]
    assert 0 < resumed[0] <= resumed[1] <= resumed[2] == tries[1]["checkpointStep"]
    # A killed process may have completed a checkpoint that the operator does not know of.
    assert all(step >= a["checkpointStep"] for step, a in zip(resumed[1:], tries[:-1], strict=True))
    assert all(a["lostSteps"] == a["step"] - a["checkpointStep"] for a in tries[:-1])
    assert attempts(job)[-1] == ("Publish", 1, "Succeeded")
