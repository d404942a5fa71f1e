"""FineTuneJobs that live through five simulated hours, and the metrics that the real code shows of them.

The statuses of the jobs are simulated. The rest is the code of the product: milestones come from
find_milestones, gauges of jobs from JobCollector, and gauges of trainers from the endpoint of the trainer.
Only the metrics of other software are written here by hand.

`python -m tests.monitoring.world FILE` writes a sample a minute as OpenMetrics, always the same bytes.
`python -m tests.monitoring.world serve` serves the metrics over HTTP on free ports, and prints the ports. A
scrape of the operator moves the simulated time on by MINUTES_A_SCRAPE.
"""

import json
import math
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from dashboards.exporters import FOREIGN
from finetune_operator.api import FineTuneJob
from finetune_operator.names import API_VERSION, KIND, LABEL_STAGE
from finetune_operator.planning.milestones import find_milestones
from finetune_operator.rendering.stage_pods import STAGE_PODS
from finetune_operator.runtime import metrics
from finetune_operator.runtime.node_failures import NodeFailures
from finetune_operator.settings import MetricsSettings
from finetune_trainer.contract import Progress, Stage
from finetune_trainer.contract.gauges import GAUGE_LABELS
from finetune_trainer.pod.endpoint import Endpoint, exposition

START = datetime(2026, 1, 8, 10, tzinfo=UTC)
MINUTES = 300
MINUTES_A_SCRAPE = 5
DIGEST = "sha256:" + "a" * 64
GPU_NODES = ("gpu-a1", "gpu-a2", "gpu-b1", "gpu-b2")
GPUS_A_NODE = 4
GIB = 2**30
STATES = {"Prepare": "Preparing", "Train": "Training", "Publish": "Publishing"}
LETTERS = {stage.value: pods.letter for stage, pods in STAGE_PODS.items()}
TARGET = {"job": "finetune-operator", "instance": "10.42.0.7:8080"}


@dataclass(frozen=True)
class Try:
    """One attempt: how long the attempt waits for its pods and runs, in minutes, and how the attempt ends."""

    stage: str
    waits: int
    runs: int
    failure: str = ""
    node: str = ""
    reason: str = "WaitingForPods"
    """Why the job waits."""
    cause: str = ""
    """Reason of the failure."""


@dataclass(frozen=True)
class Script:
    """The life of a job."""

    namespace: str
    name: str
    created: int
    tries: tuple[Try, ...]
    gpus: int = 0
    nodes: tuple[str, ...] = ("cpu-1",)
    """Nodes of the Train pods; each pod has `gpus` GPUs."""
    missing: int = 0
    """Nodes that the job requests beside `nodes`, and that no longer exist."""
    task: str = "TextClassification"
    method: str = "Full"
    scores: tuple[float, float, float] = (0.31, 0.71, 0.83)
    """Macro F1 of the majority, the baseline and the tuned model."""
    gate: str = "passed"
    end: str = "Completed"
    """Reason of the end."""


@dataclass
class Attempt:
    """An attempt at a moment, in minutes."""

    what: Try
    number: int
    start: int
    since: int
    """The minute from which all pods run."""
    end: int


CHECKPOINT_MINUTES = 8
RESUMED_STEP = 1050
"""The step from which a second attempt of Train resumes."""
QUICK = (Try("Prepare", 1, 4), Try("Train", 2, 18), Try("Publish", 1, 3))
SCRIPTS = (
    Script(
        "team-nlp",
        "ticket-router",
        20,
        (
            Try("Prepare", 1, 12),
            Try("Train", 6, 60, "Hang", "gpu-b2"),
            Try("Train", 4, 150),
            Try("Publish", 1, 30),
        ),
        gpus=4,
        nodes=("gpu-a1", "gpu-b2"),
    ),
    Script(
        "team-nlp",
        "contract-summaries",
        100,
        (Try("Prepare", 2, 25), Try("Train", 40, 400, reason="Queued")),
        gpus=4,
        nodes=("gpu-b1",),
        missing=1,
        task="TextGeneration",
        method="LoRA",
    ),
    Script(
        "team-vision",
        "defect-labels",
        200,
        (Try("Prepare", 1, 15), Try("Train", 500, 10, reason="Unschedulable")),
        gpus=8,
        nodes=("gpu-a1", "gpu-a2"),
    ),
    Script(
        "team-vision",
        "parts-classifier",
        130,
        (
            Try("Prepare", 1, 6),
            Try("Train", 3, 12, "OutOfMemory", "gpu-a2"),
            Try("Train", 2, 110),
            Try("Publish", 1, 5),
        ),
        gpus=4,
        nodes=("gpu-a2",),
        scores=(0.22, 0.88, 0.91),
    ),
    Script(
        "team-support",
        "faq-bot",
        5,
        (Try("Prepare", 1, 8), Try("Train", 3, 50)),
        gpus=4,
        nodes=("gpu-b1",),
        scores=(0.28, 0.79, 0.77),
        gate="missed",
        end="GateFailed",
    ),
    Script(
        "team-support", "mail-intents", 90, (Try("Prepare", 1, 5, "UserData", "cpu-1"),), end="DataInvalid"
    ),
    Script(
        "team-nlp",
        "sentiment",
        60,
        (
            Try("Prepare", 1, 5),
            Try("Train", 2, 9, "Internal", "gpu-b2", cause="RankKilled"),
            Try("Train", 2, 9, "Communication", "gpu-b2"),
            Try("Train", 2, 9, "Internal", "gpu-b2", cause="RankKilled"),
        ),
        gpus=4,
        nodes=("gpu-a2", "gpu-b2"),
        end="RetriesExhausted",
    ),
    Script("team-support", "spam-filter", 15, QUICK, scores=(0.48, 0.9, 0.94)),
    Script("team-support", "language-id", 150, QUICK, scores=(0.1, 0.96, 0.98)),
    Script("team-support", "urgency", 255, QUICK, scores=(0.35, 0.66, 0.74)),
    Script("team-vision", "captions", 290, (Try("Prepare", 2, 60),)),
)


@dataclass
class Life:
    """A job during the simulation."""

    script: Script
    job: FineTuneJob | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    """The attempts that have begun."""
    minute: int = 0

    @property
    def running(self) -> Attempt | None:
        """The attempt whose pods run."""
        last = self.attempts[-1] if self.attempts else None
        return last if last and last.since <= self.minute < last.end else None

    def pods(self) -> Iterator[tuple[str, str, str]]:
        """Name, stage and node of each running pod."""
        if now := self.running:
            nodes = self.script.nodes if now.what.stage == "Train" else ("cpu-1",)
            for index, node in enumerate(nodes):
                yield (
                    f"{self.script.name}-0b5c3-{LETTERS[now.what.stage]}{now.number}-{index}-x",
                    now.what.stage,
                    node,
                )


def plan(script: Script) -> list[Attempt]:
    """All attempts of a job, with their minutes."""
    made: list[Attempt] = []
    numbers: dict[str, int] = {}
    minute = script.created
    for what in script.tries:
        number = numbers[what.stage] = numbers.get(what.stage, 0) + 1
        since = minute + what.waits
        made.append(Attempt(what, number, minute, since, since + what.runs))
        minute = since + what.runs
    return made


def at(minute: float) -> str:
    return (START + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")


def share_done(attempt: Attempt, minute: float) -> float:
    """Share of the optimizer steps of a job that an attempt of Train has done."""
    share = min(1.0, (minute - attempt.since) / attempt.what.runs)
    if attempt.what.failure:
        return 0.4 * share
    return share if attempt.number == 1 else RESUMED_STEP / 3000 * (1 - share) + share


def checkpoint_of(attempt: Attempt, minute: float) -> dict[str, Any]:
    """The newest checkpoint of an attempt of Train, as fields of Progress."""
    resumed = {"resumed_from_step": RESUMED_STEP} if attempt.number > 1 and not attempt.what.failure else {}
    saved = minute - (minute - attempt.since) % CHECKPOINT_MINUTES
    if saved == attempt.since:
        return resumed
    return resumed | {
        "checkpoint_step": int(3000 * share_done(attempt, saved)),
        "checkpoint_time": (START + timedelta(minutes=saved)).timestamp(),
    }


def progress_of(attempt: Attempt, minute: int, rng: random.Random) -> Progress:
    """The progress document of the pod with index 0."""
    share = min(1.0, (minute - attempt.since) / attempt.what.runs)
    seconds = (START + timedelta(minutes=minute)).timestamp() - 5
    known: dict[str, Any] = {
        "stage": Stage(attempt.what.stage),
        "attempt": attempt.number,
        "percent": round(100 * share, 1),
        "heartbeat": seconds,
    }
    if attempt.what.stage == "Prepare":
        known |= {"rows": int(48_000 * share), "tokens": int(6_200_000 * share)}
    if attempt.what.stage == "Train":
        done = share_done(attempt, minute)
        step = int(3000 * done)
        warm = min(1.0, done / 0.06)
        known |= {
            "step": step,
            "total_steps": 3000,
            "epoch": round(3 * done, 2),
            "loss": round(0.34 + 1.9 * math.exp(-5 * done) + rng.gauss(0, 0.03), 4),
            "learning_rate": 5e-5 * warm * (1 - done) / 0.94 if warm == 1 else 5e-5 * warm,
            "gradient_norm": round(math.exp(rng.gauss(0.1, 0.35)), 3),
            "tokens_per_second": round(41_000 * rng.uniform(0.94, 1.03)),
            "mfu": round(0.42 * rng.uniform(0.94, 1.03), 3),
            "slowest_rank": 3,
            "slowest_rank_ratio": round(1.04 + 0.02 * (minute // 20 % 3), 2),
            "all_reduce_bytes_per_second": 1.9e11,
            "samples_per_second": round(320 * rng.uniform(0.8, 1.2), 1),
            "eta_seconds": round(60 * (attempt.end - minute)),
            "peak_memory_bytes": int((52 + 5 * done) * GIB),
            **checkpoint_of(attempt, minute),
        }
        if done > 0.05:
            known["validation"] = round(0.55 + 0.3 * (1 - math.exp(-4 * (done // 0.05) * 0.05)), 3)
    return Progress(**known)


def scores(value: float) -> dict[str, Any]:
    interval = {"value": value, "low": round(value - 0.021, 4), "high": round(value + 0.019, 4)}
    return {"primary": value, "metrics": {"macroF1": interval}}


def evaluation(script: Script) -> dict[str, Any]:
    majority, baseline, tuned = script.scores
    return {
        "primaryMetric": "macroF1",
        "rows": 2400,
        "majority": scores(majority),
        "baseline": scores(baseline),
        "tuned": scores(tuned),
        "delta": scores(round(tuned - baseline, 4)),
    }


def attempt_status(script: Script, attempt: Attempt, minute: int) -> dict[str, Any]:
    what, gpus = attempt.what, script.gpus * len(script.nodes)
    status = {
        "stage": what.stage,
        "number": attempt.number,
        "generation": 1,
        "configDigest": DIGEST,
        "specDigest": DIGEST,
        "job": f"{script.name}-0b5c3-{LETTERS[what.stage]}{attempt.number}",
        "startTime": at(attempt.start),
        "outcome": "Running",
    }
    if script.missing and what.stage == "Train":
        status["nodes"] = len(script.nodes)
    if minute >= attempt.since:
        status["runningSince"] = at(attempt.since)
    if minute >= attempt.end:
        status |= {"endTime": at(attempt.end), "outcome": "Failed" if what.failure else "Succeeded"}
        if what.failure:
            status |= {"class": what.failure, "node": what.node}
        if what.cause:
            status["reason"] = what.cause
    if what.stage == "Train" and minute >= attempt.since:
        status |= steps_of(attempt, minute)
        if gpus:
            status |= gpu_time_of(attempt, minute, gpus, status)
    return status


def gpu_time_of(attempt: Attempt, minute: int, gpus: int, status: dict[str, Any]) -> dict[str, Any]:
    """The fields about the GPU time of an attempt of Train."""
    total = 60 * gpus * (min(minute, attempt.end) - attempt.since)
    parts = {"startup": 20, "evaluation": 12, "checkpoint": 50, "waiting": 25}
    uses = {use: total // part for use, part in parts.items()}
    training = total - sum(uses.values())
    lost = training * status.get("lostSteps", 0) // max(1, status.get("step", 0))
    return {
        "gpus": gpus,
        "gpusHeld": gpus if minute < attempt.end else 0,
        "usageTime": at(minute),
        "gpuSeconds": {"total": total, "training": training - lost, "lost": lost, **uses},
    }


def steps_of(attempt: Attempt, minute: int) -> dict[str, Any]:
    """The fields about steps of an attempt of Train."""
    saved = checkpoint_of(attempt, min(minute, attempt.end - 1))
    found = {"resumedFromStep": saved.get("resumed_from_step")}
    if attempt.number > 1 and minute > attempt.since:
        found["inPlaceRestarts"] = {"count": 1, "class": "Hang", "reason": "RankSilent"}
    if minute >= attempt.end:
        found["checkpointStep"] = saved.get("checkpoint_step")
        if attempt.what.failure:
            found["step"] = int(3000 * share_done(attempt, attempt.end))
            found["lostSteps"] = found["step"] - (found["checkpointStep"] or 0)
    return {name: value for name, value in found.items() if value is not None}


def status_at(
    script: Script, attempts: list[Attempt], minute: int, progress: Progress | None
) -> dict[str, Any]:
    """The status of a job."""
    begun = [attempt for attempt in attempts if attempt.start <= minute]
    now, last = begun[-1], attempts[-1]
    state, reason = STATES[now.what.stage], ""
    ended = minute >= last.end
    if ended:
        state = {"Completed": "Succeeded", "GateFailed": "GateFailed"}.get(script.end, "Failed")
    elif minute < now.since:
        state, reason = "Waiting", now.what.reason
    status: dict[str, Any] = {
        "state": state,
        "stage": now.what.stage,
        "attempts": [attempt_status(script, attempt, minute) for attempt in begun],
    }
    if held := [attempt["gpuSeconds"] for attempt in status["attempts"] if "gpuSeconds" in attempt]:
        status["gpuSeconds"] = {use: sum(each[use] for each in held) for use in held[0]}
    if now.what.stage != "Prepare":
        status["memory"] = {"process": 58 * GIB, "train": 96 * GIB, "publish": 4 * GIB}
    conditions = {"Running": ("False", reason)} if reason else {}
    trained = any(a.what.stage == "Train" and not a.what.failure and minute >= a.end for a in begun)
    if trained:
        status["evaluation"] = evaluation(script)
        conditions["GatePassed"] = (
            ("True", "GatePassed") if script.gate == "passed" else ("False", "GateFailed")
        )
    if ended:
        status["completionTime"] = at(last.end)
        conditions["Succeeded"] = ("True" if script.end == "Completed" else "False", script.end)
        if script.end == "Completed":
            status["report"] = f"s3://models/{script.namespace}/{script.name}/report.html"
    if progress:
        status["progress"] = {
            "percent": int(progress.percent),
            "activity": now.what.stage,
            "step": progress.step,
            "updated": at(minute),
        }
        if progress.checkpoint_time:
            status["progress"] |= {
                "checkpointStep": progress.checkpoint_step,
                "checkpointTime": datetime.fromtimestamp(progress.checkpoint_time, UTC).isoformat(),
            }
    status["conditions"] = [
        {
            "type": kind,
            "status": value,
            "reason": why,
            "observedGeneration": 1,
            "lastTransitionTime": at(minute),
        }
        for kind, (value, why) in conditions.items()
    ]
    return status


class World(Collector):
    """The jobs, and the metrics of the operator.

    Args:
        minutes_a_scrape: minutes by which a scrape moves the time on; 0: only `move` does.
    """

    def __init__(self, minutes_a_scrape: int = 0) -> None:
        self.minute = 0
        self._step = minutes_a_scrape
        self._rng = random.Random(7)  # noqa: S311 - no secret
        self._lives = [Life(script) for script in SCRIPTS]
        self._plans = {script.name: plan(script) for script in SCRIPTS}
        self._progress: dict[str, Progress] = {}
        self._failures = NodeFailures()
        metrics.LEADER.set(1)
        metrics.BUILD.info({"version": "0.1.0", "python": "3.11.2"})
        metrics.SCOPE_HEALTHY.labels(namespace="").set(1)
        for start, end, days in (
            (metrics.CERTIFICATE_START, metrics.CERTIFICATE_END, 90),
            (metrics.TOKEN_START, metrics.TOKEN_END, 1),
        ):
            start.set(START.timestamp())
            end.set((START + timedelta(days=days)).timestamp())
        metrics.cleanup_failed("team-support", "s3://models/team-support/old-bot/", failed=True)
        REGISTRY.register(self)
        collector = metrics.JobCollector(
            self._jobs,
            self._pods,
            lambda _: None,
            self._now,
            MetricsSettings(scrape_namespaces=("monitoring",)),
            self._failures.all,
        )
        REGISTRY.register(collector)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for _ in range(self._step):
            if self.minute < MINUTES:
                self.move()
        yield from ()

    def _now(self) -> datetime:
        return START + timedelta(minutes=self.minute)

    def _jobs(self) -> list[dict[str, Any]]:
        return [life.manifest for life in self._lives if life.manifest]

    def _pods(self, run: str) -> list[dict[str, Any]]:
        (life,) = (life for life in self._lives if life.manifest and life.manifest["metadata"]["uid"] == run)
        return [
            {"metadata": {"name": name, "labels": {LABEL_STAGE: stage}}, "spec": {"nodeName": node}}
            for name, stage, node in life.pods()
        ]

    def move(self) -> None:
        """Moves the time on by a minute."""
        self.minute += 1
        self._progress = {}
        for life in self._lives:
            if life.script.created <= self.minute:
                self._move(life)
        self._work()

    def _move(self, life: Life) -> None:
        script, attempts = life.script, self._plans[life.script.name]
        life.attempts = [attempt for attempt in attempts if attempt.start <= self.minute]
        now = life.attempts[-1]
        if now.since <= self.minute < now.end:
            self._progress[script.name] = progress_of(now, self.minute, self._rng)
        status = status_at(script, attempts, self.minute, self._progress.get(script.name))
        life.minute = self.minute
        life.manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "namespace": script.namespace,
                "name": script.name,
                "uid": f"uid-{script.name}",
                "creationTimestamp": at(script.created),
            },
            "spec": {
                "task": script.task,
                "model": {"uri": "s3://models/minilm"},
                "dataset": {"train": {"uri": "s3://data/train.jsonl"}},
                "output": {"uri": "s3://models/out/"},
                "method": {"type": script.method},
                "resources": {
                    "nodes": len(script.nodes) + script.missing,
                    "minNodes": len(script.nodes),
                    "gpusPerNode": script.gpus,
                },
            },
            "status": status,
        }
        self._failures.put(life.manifest)
        job = FineTuneJob.model_validate(life.manifest)
        before = life.job.status if life.job else None
        assert job.status is not None
        metrics.count_milestones(find_milestones(job, before, job.status))
        life.job = job

    def _work(self) -> None:
        """What the other parts of the operator count within a minute."""
        rng = self._rng
        active = len(self._progress) + 1
        for _ in range(6 * active):
            metrics.RECONCILES.labels(result="done").inc()
            metrics.RECONCILE_SECONDS.observe(rng.expovariate(1 / 0.03))
            metrics.QUEUE_SECONDS.observe(rng.expovariate(1 / 0.004))
            metrics.API_REQUESTS.labels(verb="patch", resource="finetunejobs", code="200").inc()
        for _ in range(30):
            metrics.EVENT_LOOP_LAG.observe(rng.expovariate(1 / 0.002))
        metrics.API_REQUESTS.labels(verb="list", resource="pods", code="200").inc(2)
        metrics.POLLS.labels(result="answered").inc(6 * len(self._progress))
        metrics.QUEUE_DEPTH.set(rng.randrange(3))
        metrics.NOTIFICATIONS.labels(target="crm", result="delivered").inc(self.minute % 13 == 0)
        metrics.NOTIFICATIONS.labels(target="crm", result="retried").inc(self.minute in {130, 131, 132})
        metrics.NOTIFICATIONS_PENDING.labels(target="crm").set(self.minute in {130, 131, 132})
        metrics.NOTIFICATIONS_OLDEST_SECONDS.labels(target="crm").set(
            60 * (self.minute - 129) if self.minute in {130, 131, 132} else 0
        )
        if self.minute % 5 == 1:
            metrics.RESYNC_TIME.labels(namespace="").set(self._now().timestamp())
            metrics.RESYNC_SECONDS.labels(namespace="").set(round(rng.uniform(0.2, 0.5), 3))
            metrics.WATCH_RESTARTS.labels(resource="pods", cause="ended").inc()
        if self.minute % 17 == 0:
            metrics.RECONCILES.labels(result="retry").inc()
            metrics.API_REQUESTS.labels(verb="patch", resource="finetunejobs", code="409").inc()
        if self.minute % 60 == 0:
            metrics.WATCH_RESTARTS.labels(resource="jobs", cause="expired").inc()
            metrics.CLEANUPS.labels(result="completed").inc()
        if self.minute in {99, 100}:
            metrics.POLLS.labels(result="unreachable").inc()

    def trainers(self) -> Iterator[tuple[dict[str, str], Progress]]:
        """Labels and progress document of each pod with index 0."""
        for life in self._lives:
            if progress := self._progress.get(life.script.name):
                values = (
                    life.script.namespace,
                    life.script.name,
                    str(progress.attempt),
                    progress.stage.value,
                )
                yield dict(zip(GAUGE_LABELS, values, strict=True)), progress

    def others(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Series of other software: name, labels, value."""
        for life in self._lives:
            busy = 0.02 if life.script.name == "contract-summaries" and self.minute > 250 else 0.9
            for pod, stage, node in life.pods():
                yield from self._pod(life.script, pod, node, life.script.gpus if stage == "Train" else 0)
                if stage == "Train" and life.script.gpus:
                    yield from self._gpus(life.script, pod, node, busy)
        for node in GPU_NODES:
            allocatable = {"node": node, "resource": "nvidia_com_gpu", "unit": "integer"}
            yield "kube_node_status_allocatable", allocatable, GPUS_A_NODE
        waiting = sum(
            1 for life in self._lives if life.manifest and life.manifest["status"]["state"] == "Waiting"
        )
        held = sum(
            life.script.gpus * len(life.script.nodes)
            for life in self._lives
            if life.running and life.running.what.stage == "Train"
        )
        for queue, quota, used in (("research", 8, min(held, 10)), ("products", 8, max(0, held - 10))):
            where = {"cohort": "all", "cluster_queue": queue, "flavor": "h100", "resource": "nvidia.com/gpu"}
            yield "kueue_cluster_queue_nominal_quota", where, quota
            yield "kueue_cluster_queue_resource_usage", where, used
            for status in ("active", "inadmissible"):
                labels = {"cluster_queue": queue, "status": status}
                yield "kueue_pending_workloads", labels, waiting if status == "active" else 0
            for bound, share in (("10", 0.2), ("60", 0.5), ("600", 0.8), ("2560", 1), ("+Inf", 1)):
                labels = {"cluster_queue": queue, "le": bound}
                yield "kueue_admission_wait_time_seconds_bucket", labels, int(self.minute // 10 * share)
        evicted = {"cluster_queue": "products", "reason": "Preempted"}
        yield "kueue_evicted_workloads_total", evicted, self.minute // 120
        yield "process_resident_memory_bytes", TARGET, 96e6 + 4e6 * math.sin(self.minute / 20)
        yield "process_cpu_seconds_total", TARGET, 2.4 * self.minute

    def _pod(
        self, script: Script, pod: str, node: str, gpus: int
    ) -> Iterator[tuple[str, dict[str, str], float]]:
        where = {"namespace": script.namespace, "pod": pod}
        of_container = {**where, "container": "trainer"}
        used = (30 + 8 * math.sin(self.minute / 25)) * GIB
        yield "container_memory_working_set_bytes", of_container, used
        memory = {**of_container, "resource": "memory", "node": node}
        yield "kube_pod_container_resource_limits", memory, 48 * GIB
        yield "kube_pod_status_phase", {**where, "phase": "Running"}, 1
        if gpus:
            labels = {**of_container, "resource": "nvidia_com_gpu", "node": node}
            yield "kube_pod_container_resource_requests", labels, gpus

    def _gpus(
        self, script: Script, pod: str, node: str, busy: float
    ) -> Iterator[tuple[str, dict[str, str], float]]:
        # A scrape without honorLabels renames the labels; half of the nodes are scraped like that.
        if node.startswith("gpu-a"):
            own = {"namespace": script.namespace, "pod": pod}
        else:
            own = {
                "exported_namespace": script.namespace,
                "exported_pod": pod,
                "namespace": "gpu-operator",
                "pod": f"dcgm-{node}",
            }
        for gpu in range(script.gpus):
            wave = busy * (1 + 0.05 * math.sin(self.minute / 7 + gpu))
            labels = {**own, "gpu": str(gpu), "Hostname": node}
            yield "DCGM_FI_PROF_GR_ENGINE_ACTIVE", labels, round(wave, 3)
            yield "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", labels, round(0.45 * wave, 3)
            yield "DCGM_FI_DEV_FB_USED", labels, round(52_000 + 900 * gpu)
            yield "DCGM_FI_DEV_POWER_USAGE", labels, round(120 + 480 * wave)
            yield "DCGM_FI_DEV_GPU_TEMP", labels, round(38 + 30 * wave)
            yield "DCGM_FI_DEV_XID_ERRORS", labels, 79 if node == "gpu-b2" and gpu == 3 else 0


def family(name: str) -> str:
    """The name of the metric of a series."""
    for suffix in ("_bucket", "_sum", "_count"):
        if name.removesuffix(suffix) in FOREIGN:
            return name.removesuffix(suffix)
    return name


def samples(world: World) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """All series at the minute of the world: name, labels, value."""
    for page in text_string_to_metric_families(generate_latest(REGISTRY).decode()):
        for sample in page.samples:
            if sample.name.startswith("finetune_") and not sample.name.endswith("_created"):
                yield sample.name, {**TARGET, **sample.labels}, sample.value
    for labels, progress in world.trainers():
        target = {"job": "trainers", "instance": f"{labels['finetunejob']}:8080"}
        for page in text_string_to_metric_families(exposition(progress, labels)):
            for sample in page.samples:
                yield sample.name, {**target, **sample.labels}, sample.value
    for name, labels, value in world.others():
        known = FOREIGN[family(name)]
        unknown = labels.keys() - {*known.labels, "le", *TARGET}
        assert not unknown, f"{name} has no labels {unknown}"
        yield name, labels, value


def backfill(file: Path) -> None:
    """Writes a sample of every series for every minute."""
    world = World()
    series: dict[str, list[str]] = {}
    for _ in range(MINUTES):
        world.move()
        seconds = int((START + timedelta(minutes=world.minute)).timestamp())
        for name, labels, value in samples(world):
            key = name + "{" + ",".join(f"{k}={json.dumps(v)}" for k, v in sorted(labels.items())) + "}"
            series.setdefault(key, []).append(f"{key} {value!r} {seconds}")
    with file.open("w") as out:
        for _, lines in sorted(series.items()):
            out.write("\n".join(lines) + "\n")
        out.write("# EOF\n")


def serve() -> None:
    """Serves the operator and three trainers until standard input ends."""
    world = World(MINUTES_A_SCRAPE)
    server, _ = start_http_server(0, addr="127.0.0.1")
    rng = random.Random(7)  # noqa: S311 - no secret
    script = SCRIPTS[0]
    endpoints = []
    for attempt in plan(script):
        if attempt.what.stage != "Publish":

            def progress(of: Attempt = attempt) -> Progress:
                return progress_of(of, max(of.since, min(world.minute, of.end)), rng)

            values = (script.namespace, script.name, str(attempt.number), attempt.what.stage)
            endpoints.append(Endpoint(0, progress, "", dict(zip(GAUGE_LABELS, values, strict=True))))
    ports = {"operator": server.server_port, "trainers": [endpoint.port for endpoint in endpoints]}
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        backfill(Path(sys.argv[1]))
