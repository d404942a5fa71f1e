"""The operator killed at ten random moments of jobs: the same end as without."""

import os
import random
import time
from collections import Counter

import pytest

from examples import demo
from tests.e2e.scene import (
    OPERATOR,
    SLOW_SECONDS,
    Scene,
    attempts,
    cleaned_up,
    condition,
    kill_operator,
    log,
    succeeded,
    tiny,
    until,
)

KILLS = 10
SHORT_LEASE = ("--set", "settings.lease.durationSeconds=4", "--set", "settings.lease.renewSeconds=1")
"""With the usual 15 s a killed operator would do nothing during most of the job."""


def leads(scene: Scene) -> bool:
    return "this replica leads" in demo.kubectl(
        scene.target, "logs", *OPERATOR, "--tail=-1", "--ignore-errors"
    )


def unfinished(scene: Scene, name: str) -> bool:
    return condition(scene.job(name), "Finished")["status"] != "True"


@pytest.mark.operator_says("lease")
def test_killed_at_ten_random_moments_every_job_ends_the_same(scene: Scene) -> None:
    seed = int(os.environ.get("E2E_SEED", "20"))
    chance = random.Random(seed)  # noqa: S311 - moments, no secret
    demo.install(scene.target, *SHORT_LEASE)
    kills, names = 0, []
    while kills < KILLS:
        name = f"survivor-{len(names) + 1}"
        names.append(name)
        scene.apply(tiny(name, scene, training={"epochs": 300}, resources={"nodes": 2}))
        while kills < KILLS and unfinished(scene, name):
            until("an operator leads", SLOW_SECONDS, lambda: leads(scene), pause=0.2)
            time.sleep(chance.uniform(0, 6))  # the random moment itself
            kills += 1
            status = scene.job(name).get("status") or {}
            log.info("kill %d (seed %d) of %s: %s", kills, seed, name, status.get("message"))
            kill_operator(scene)
        job = succeeded(scene, name)
        assert attempts(job) == [(stage, 1, "Succeeded") for stage in ("Prepare", "Train", "Publish")]
        uid = job["metadata"]["uid"]
        jobs = scene.all_of("Job", f"finetune.dev/job-uid={uid}")
        made = Counter(j["metadata"]["name"].rpartition("-")[2] for j in jobs)
        assert made == Counter({"p1": 1, "t1": 1, "u1": 1})
        scene.kubectl("delete", "ftj", name)
        cleaned_up(scene, uid)
