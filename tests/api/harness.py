"""The operator as a real process, and what a kubelet would do to pods."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import (
    Account,
    Best,
    Chosen,
    Evaluation,
    ExitCode,
    FailureClass,
    Findings,
    Interval,
    PreparePayload,
    PublishPayload,
    RowCounts,
    Scores,
    Stage,
    TerminationMessage,
    TrainPayload,
)
from tests.api.forks import Forked
from tests.api.kube import Kube, wait_for

DIGEST = "sha256:" + "a" * 64
UID = "finetune.dev/job-uid"


class Operator:
    """One replica, started with settings of its own.

    Args:
        folder: for the settings and the log.
        kubeconfig: reaches the API server.
        settings: the settings of the replica, without its ports.
        name: of the files in `folder`.
        own_process: starts `python -m finetune_operator`; else the replica is a fork of a process that has
            imported the operator.
    """

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        settings: dict[str, Any],
        name: str = "operator",
        *,
        own_process: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.metrics_port, self.health_port = free_port(), free_port()
        self.log_file = folder / f"{name}.log"
        self.settings_file = folder / f"{name}.yaml"
        ports = {"metricsPort": self.metrics_port, "healthPort": self.health_port}
        self.settings_file.write_text(yaml.safe_dump(settings | ports))
        self.kubeconfig = kubeconfig
        self.allowed: list[str] = []
        """What the log may say at level error or worse."""
        self.own_process = own_process
        self.process: subprocess.Popen[bytes] | Forked | None = None

    def start(self, environment: dict[str, str] | None = None) -> "Operator":
        """Starts the replica, with further environment variables."""
        arguments = (
            "--verbose",
            *("--settings", str(self.settings_file)),
            *("--notification-keys", str(self.settings_file.parent / "notifications")),
        )
        variables = os.environ | {"KUBECONFIG": str(self.kubeconfig)} | (environment or {})
        self.log_file.touch()
        if not self.own_process:
            self.process = Forked(*arguments, environment=variables, output=self.log_file)
            return self
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator", *arguments],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def running(self) -> subprocess.Popen[bytes] | Forked:
        assert self.process is not None
        return self.process

    def signal(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    def stop(self, seconds: float = 10) -> int:
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(seconds)

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def leads(self) -> bool:
        return self.metric("finetune_operator_leader") == 1

    def metrics(self) -> list[str] | None:
        """The lines of one scrape; None while the operator does not answer."""
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None
        return [line for line in text.decode().splitlines() if not line.startswith("#")]

    def metric(self, name: str) -> float | None:
        """Sum of a metric over all its labels (or those in the name)."""
        lines = self.metrics()
        if lines is None:
            return None
        found = [
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((name + " ", name + "{")) or line.rpartition(" ")[0] == name
        ]
        return sum(found) if found else None

    def healthy(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.health_port}/healthz"
            return bool(urllib.request.urlopen(url, timeout=5).status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


def complaints(operator: Operator) -> list[str]:
    """What a log says that nobody expected: tracebacks, errors, and lines that are no JSON."""
    found = []
    for line in operator.log_file.read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            found.append(line)
            continue
        bad = said["level"] in {"error", "critical"} or "traceback" in said
        if bad and not any(allowed in said["message"] for allowed in operator.allowed):
            found.append(line)
    return found


class Kubelet:
    """Writes into pods' status what a kubelet would; there is none here.

    Args:
        kube: the API server.
        namespace: of the pods.
        ahead: seconds that the clock of the node is ahead.
    """

    def __init__(self, kube: Kube, namespace: str, ahead: float = 0) -> None:
        self.kube, self.namespace, self.ahead = kube, namespace, ahead

    def pods(self, uid: str, stage: str, attempt: int = 1) -> list[Any]:
        selector = f"{UID}={uid},finetune.dev/stage={stage},finetune.dev/attempt={attempt}"
        return self.kube.list("Pod", self.namespace, selector)

    def await_pods(
        self, uid: str, stage: str, attempt: int = 1, count: int = 1, seconds: float = 30
    ) -> list[Any]:
        def there() -> list[Any] | None:
            pods = self.pods(uid, stage, attempt)
            return pods if len(pods) == count else None

        found: list[Any] = wait_for(f"{count} pods of {stage} {attempt}", there, seconds)
        return found

    def run(self, pods: Iterable[Any], address: str = "127.0.0.1") -> None:
        for pod in pods:
            now = timestamp(self.ahead)
            self._status(
                pod,
                {
                    "phase": "Running",
                    "podIP": address,
                    "podIPs": [{"ip": address}],
                    "startTime": now,
                    "containerStatuses": [container({"running": {"startedAt": now}})],
                },
            )

    def leave_unscheduled(self, pods: Iterable[Any], message: str) -> None:
        """No node takes the pods, as the scheduler would say."""
        told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        for pod in pods:
            self._status(pod, {"phase": "Pending", "conditions": [told]})

    def finish(self, pods: Iterable[Any], failure: FailureClass = FailureClass.SUCCESS) -> None:
        """Each pod ends with its message: success with a result, or a failure."""
        for pod in pods:
            text = message_for(pod, failure).encode().decode()
            self.terminate(pod, int(ExitCode.of(failure)), text)

    def terminate(
        self, pod: Any, code: int, message: str = "", reason: str = "", others: Iterable[Any] = ()
    ) -> None:
        """The trainer's container ends; `others` are the statuses of ordinary containers that still run."""
        now = timestamp(self.ahead)
        ended = {"exitCode": code, "startedAt": now, "finishedAt": now, "message": message}
        ended["reason"] = reason or ("Completed" if code == 0 else "Error")
        statuses = sorted([container({"terminated": ended}), *others], key=lambda each: str(each["name"]))
        phase = "Failed" if code else "Succeeded"
        self._status(pod, {"phase": "Running" if others else phase, "containerStatuses": statuses})

    def bind(self, pods: Iterable[Any]) -> None:
        """As the scheduler would: from now on a deleted pod gets its grace period.

        No such node exists, so the control plane runs without the garbage collector of pods.
        """
        for pod in pods:
            name = pod["metadata"]["name"]
            body = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": f"node-{self.namespace}"},
            }
            self.kube.call("POST", f"/api/v1/namespaces/{self.namespace}/pods/{name}/binding", body)

    def remove(self, pods: Iterable[Any]) -> None:
        """Pods on their way out are gone."""
        for pod in pods:
            body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"
            self.kube.call("DELETE", path, body)

    def _status(self, pod: Any, status: Any) -> None:
        self.kube.merge("Pod", self.namespace, pod["metadata"]["name"], {"status": status}, "status")


@dataclass
class Scene:
    """One test's namespace, its pods, and the operators that it starts."""

    kube: Kube
    namespace: str
    folder: Path
    settings: dict[str, Any]
    own_process: bool = False
    operators: list[Operator] = field(default_factory=list)

    @property
    def kubelet(self) -> Kubelet:
        return Kubelet(self.kube, self.namespace)

    def start(
        self, kubeconfig: Path | None = None, environment: dict[str, str] | None = None, **changes: Any
    ) -> Operator:
        """Starts a replica; it ends with the test, and then its log is read."""
        name = f"operator-{len(self.operators)}"
        operator = Operator(
            self.folder,
            kubeconfig or self.kube.kubeconfig,
            self.settings | changes,
            name,
            own_process=self.own_process,
        )
        self.operators.append(operator)
        return operator.start(environment)

    def make_job(
        self,
        name: str = "tickets",
        *,
        namespace: str = "",
        annotations: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        **spec: Any,
    ) -> str:
        """Returns its uid."""
        whole = {
            "task": "TextClassification",
            "model": {"uri": "s3://models/minilm"},
            "dataset": {"train": {"uri": "s3://data/tickets/train.jsonl"}},
            "output": {"uri": "s3://tuned/support/"},
            "storage": {"endpoint": "https://minio.storage:9000", "secretRef": {"name": "s3"}},
        }
        made = self.kube.create(
            {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {
                    "name": name,
                    "namespace": namespace or self.namespace,
                    "annotations": annotations or {},
                    "labels": labels or {},
                },
                "spec": whole | spec,
            }
        )
        return str(made["metadata"]["uid"])

    def change_job(self, name: str = "tickets", **spec: Any) -> None:
        self.kube.merge("FineTuneJob", self.namespace, name, {"spec": spec})

    def status(self, name: str = "tickets") -> dict[str, Any]:
        status: dict[str, Any] = self.kube.get("FineTuneJob", self.namespace, name).get("status", {})
        return status

    def attempts(self) -> list[dict[str, Any]]:
        """The attempts in the status; none before the operator has written a status."""
        found: list[dict[str, Any]] = self.status().get("attempts", [])
        return found

    def await_state(self, state: str, seconds: float = 30, name: str = "tickets") -> dict[str, Any]:
        wait_for(f"state {state}", lambda: self.status(name).get("state") == state, seconds)
        return self.status(name)

    def go_through(self, uid: str, *stages: str, nodes: int = 1, seconds: float = 30) -> None:
        """Lets the pods of these stages run and succeed; of all stages if none is named."""
        for stage in stages or ("Prepare", "Train", "Publish"):
            pods = self.kubelet.await_pods(uid, stage, 1, nodes if stage == "Train" else 1, seconds)
            self.kubelet.run(pods)
            self.kubelet.finish(pods)

    def jobs_of(self, uid: str) -> list[str]:
        """Stage letters and attempts of a run's Jobs."""
        jobs = self.kube.list("Job", self.namespace, f"{UID}={uid}")
        return sorted(job["metadata"]["name"].rpartition("-")[2] for job in jobs)


def container(state: dict[str, Any], name: str = "trainer") -> dict[str, Any]:
    return {
        "name": name,
        "image": "x",
        "imageID": "x",
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }


def timestamp(ahead: float = 0) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + ahead))


def config_of(pod: Any) -> TrainConfig:
    return TrainConfig.model_validate_json(pod["metadata"]["annotations"]["finetune.dev/config"])


def message_for(pod: Any, failure: FailureClass) -> TerminationMessage:
    """What the trainer in a pod would say."""
    config = config_of(pod)
    return TerminationMessage(
        stage=config.stage,
        attempt=config.attempt,
        config_digest=config.run.digest(),
        failure=failure,
        reason="Completed" if failure is FailureClass.SUCCESS else failure.value,
        message=f"{config.stage} ended with {failure}.",
        payload=payload_for(config) if failure is FailureClass.SUCCESS else None,
    )


def payload_for(config: TrainConfig) -> Any:
    runs, size = config.run.runs, config.run.world.size
    scores = Scores(primary=0.5, metrics={"macroF1": Interval(value=0.5, low=0.4, high=0.6)})
    match config.stage:
        case Stage.PREPARE:
            return PreparePayload(
                data_digest=DIGEST,
                model_digest=DIGEST,
                prepared=f"{runs}prepared/",
                rows=RowCounts(train=100, validation=10, test=10, dropped=0),
                account=Account(read=120, columns=2, columns_used=2, classes=3, classes_learnt=3),
                labels=3,
                tokens=1000,
                truncated_tokens=0,
                parameters=1000,
                chosen=Chosen(
                    epochs=1,
                    batch_size=4 * size,
                    micro_batch_size=4,
                    accumulation_steps=1,
                    world_size=size,
                    learning_rate=1e-4,
                    max_length=32,
                    zero_stage=0,
                    total_steps=10,
                ),
                findings=Findings(),
                report=f"{runs}prepared/report.json",
            )
        case Stage.TRAIN:
            return TrainPayload(
                best=Best(step=10, metric=0.5),
                evaluation=Evaluation(
                    primary_metric="macroF1",
                    rows=10,
                    majority=scores,
                    baseline=scores,
                    tuned=scores,
                    delta=scores,
                ),
                staging=f"{runs}staging/",
                peak_memory_bytes=1,
                gpu_seconds=0,
            )
        case _:
            return PublishPayload(
                uri=config.run.output, digest=DIGEST, size_bytes=1, report=f"{config.run.output}report.html"
            )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
