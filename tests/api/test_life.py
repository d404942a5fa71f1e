"""The life of a job, on a real API server with the real Job controller. There is no kubelet: what happens in
pods is written into their status by the test (the e2e suite runs real pods).
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.harness import Kubelet, Operator
from tests.api.kube import Kube, wait_for

pytestmark = pytest.mark.api
Start = Callable[..., Operator]


def make_job(kube: Kube, namespace: str, name: str = "tickets", **spec: Any) -> str:
    made = kube.create(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "task": "TextClassification",
                "model": {"uri": "s3://models/minilm"},
                "dataset": {"train": {"uri": "s3://data/tickets/train.jsonl"}},
                "output": {"uri": "s3://tuned/support/"},
                "storage": {"endpoint": "https://minio.storage:9000", "secretRef": {"name": "s3"}},
            }
            | spec,
        }
    )
    return str(made["metadata"]["uid"])


def state_of(kube: Kube, namespace: str, name: str = "tickets") -> str | None:
    state: str | None = kube.get("FineTuneJob", namespace, name).get("status", {}).get("state")
    return state


def live(
    kubelet: Kubelet, uid: str, stages: tuple[str, ...] = ("Prepare", "Train", "Publish"), count: int = 1
) -> None:
    for stage in stages:
        pods = kubelet.await_pods(uid, stage, count=count if stage == "Train" else 1)
        kubelet.run(pods)
        kubelet.finish(pods)


def await_state(kube: Kube, namespace: str, state: str, seconds: float = 20, name: str = "tickets") -> Any:
    wait_for(f"state {state}", lambda: state_of(kube, namespace, name) == state, seconds)
    return kube.get("FineTuneJob", namespace, name)["status"]


def test_a_job_is_prepared_trained_and_published(
    kube: Kube, namespace: str, kubelet: Kubelet, start_operator: Start
) -> None:
    operator = start_operator()
    uid = make_job(kube, namespace, resources={"nodes": 2})
    live(kubelet, uid, count=2)
    status = await_state(kube, namespace, "Succeeded")
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    assert conditions["Succeeded"] == conditions["Finished"] == conditions["Published"] == "True"
    assert [(a["stage"], a["number"], a["outcome"]) for a in status["attempts"]] == [
        ("Prepare", 1, "Succeeded"),
        ("Train", 1, "Succeeded"),
        ("Publish", 1, "Succeeded"),
    ]
    assert status["model"]["uri"].startswith("s3://tuned/support/")
    assert status["evaluation"]["tuned"]["primary"] == 0.5
    assert operator.stop() == 0
