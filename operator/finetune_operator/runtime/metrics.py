"""The Prometheus metrics of the operator: of its own work, of runs over time, and of the existing jobs.

docs/metrics.md lists all metrics; a test keeps the page up to date. The counters and histograms of runs count
from the start of the process, as usual in Prometheus. The gauges of jobs are computed at each scrape.
"""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.names import LABEL_STAGE, Condition, State
from finetune_operator.objects import Manifest, moment
from finetune_operator.planning import sick_nodes
from finetune_operator.planning.milestones import MetricName, Milestone
from finetune_operator.planning.types import NodeFailure
from finetune_operator.settings import MetricsSettings
from finetune_trainer.contract import Progress
from finetune_trainer.contract.gauges import GAUGE_LABELS, GAUGES, gauge_values

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG_SECONDS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 259200)
_MAX_REASONS = 200
"""Most values of the label `reason`: trainer pods, which a tenant can imitate, choose the reasons."""
_OTHER = "Other"

RECONCILES = Counter("finetune_operator_reconciles", "Reconciles of runs, by result.", ["result"])
RECONCILE_SECONDS = Histogram(
    "finetune_operator_reconcile_seconds", "Duration of a reconcile.", buckets=_SECONDS
)
QUEUE_DEPTH = Gauge("finetune_operator_queue_depth", "Jobs that wait for a worker.")
QUEUE_SECONDS = Histogram(
    "finetune_operator_queue_seconds", "Time that a job waited for a worker.", buckets=_SECONDS
)
API_REQUESTS = Counter(
    "finetune_operator_api_requests", "Requests to the Kubernetes API.", ["verb", "resource", "code"]
)
WATCH_RESTARTS = Counter(
    "finetune_operator_watch_restarts", "Restarts of watches, by cause.", ["resource", "cause"]
)
POLLS = Counter(
    "finetune_operator_progress_polls", "Requests to trainers for their progress, by result.", ["result"]
)
NOTIFICATIONS = Counter(
    "finetune_operator_notifications",
    "Requests to notification targets, by result: delivered, retried (a later request follows), failed (the"
    " operator has given up), or deferred (too many notifications of the target are pending).",
    ["target", "result"],
)
NOTIFICATIONS_PENDING = Gauge(
    "finetune_operator_notifications_pending",
    "Notifications that the operator still tries to deliver.",
    ["target"],
)
NOTIFICATIONS_OLDEST_SECONDS = Gauge(
    "finetune_operator_notifications_oldest_pending_seconds",
    "Time since the event of the oldest pending notification; 0: no notification is pending.",
    ["target"],
)
SCOPE_HEALTHY = Gauge(
    "finetune_operator_scope_healthy",
    "1 while a watched namespace (empty: the whole cluster) can be listed and watched.",
    ["namespace"],
)
RESYNC_TIME = Gauge(
    "finetune_operator_last_resync_timestamp_seconds",
    "Unix time of the last complete list of a watched namespace.",
    ["namespace"],
)
RESYNC_SECONDS = Gauge(
    "finetune_operator_resync_seconds",
    "Duration of the last complete list of a watched namespace.",
    ["namespace"],
)
EVENT_LOOP_LAG = Histogram(
    "finetune_operator_event_loop_lag_seconds",
    "How late the event loop runs a task after its due time, measured 20 times a second.",
    buckets=_SECONDS,
)
LEADER = Gauge("finetune_operator_leader", "1 on the leader, 0 on the other replicas.")
CLEANUPS = Counter("finetune_operator_cleanups", "Cleanups of deleted runs that ended.", ["result"])
CLEANUP_FAILED = Gauge(
    "finetune_operator_cleanup_failed",
    "1 for each folder in S3 that the cleanup of a deleted FineTuneJob failed to delete; absent otherwise.",
    ["namespace", "prefix"],
)
CERTIFICATE_START = Gauge(
    "finetune_operator_certificate_start_timestamp_seconds",
    "Unix time from which the TLS certificate of /metrics is valid; 0: /metrics has no TLS.",
)
CERTIFICATE_END = Gauge(
    "finetune_operator_certificate_end_timestamp_seconds",
    "Unix time at which the TLS certificate of /metrics ends; 0: /metrics has no TLS.",
)
TOKEN_START = Gauge(
    "finetune_operator_token_start_timestamp_seconds",
    "Unix time at which the operator's token for the Kubernetes API was issued; 0: the token has no end.",
)
TOKEN_END = Gauge(
    "finetune_operator_token_end_timestamp_seconds",
    "Unix time at which the operator's token for the Kubernetes API ends; 0: the token has no end.",
)
BUILD = Info("finetune_operator_build", "Versions.")
MILESTONES: Mapping[MetricName, Counter | Histogram] = {
    "finetune_jobs_finished": Counter(
        "finetune_jobs_finished",
        "FineTuneJobs that ended, by outcome (Succeeded, Failed, GateFailed) and reason.",
        ["namespace", "task", "method", "outcome", "reason"],
    ),
    "finetune_attempts": Counter(
        "finetune_attempts",
        "Attempts that ended, by stage, outcome, class of the failure, and node of the first failed pod.",
        ["stage", "outcome", "class", "node"],
    ),
    "finetune_gpu_seconds": Counter(
        "finetune_gpu_seconds",
        "Time for which the pods of ended Train attempts held GPUs, in seconds x GPUs, by use: startup,"
        " training, evaluation, checkpoint, lost (steps that the next attempt repeats) or waiting.",
        ["namespace", "use"],
    ),
    "finetune_gates": Counter(
        "finetune_gates", "Gates that were decided: passed or missed.", ["namespace", "result"]
    ),
    "finetune_queue_wait_seconds": Histogram(
        "finetune_queue_wait_seconds",
        "Time from the creation of the Job of an attempt until all its pods run.",
        ["stage"],
        buckets=_LONG_SECONDS,
    ),
    "finetune_stage_duration_seconds": Histogram(
        "finetune_stage_duration_seconds",
        "Time from the start of the first attempt of a stage until the stage succeeded.",
        ["stage"],
        buckets=_LONG_SECONDS,
    ),
    "finetune_time_to_first_step_seconds": Histogram(
        "finetune_time_to_first_step_seconds",
        "Time from the creation of a FineTuneJob until the operator saw an optimizer step.",
        buckets=_LONG_SECONDS,
    ),
    "finetune_recovery_seconds": Histogram(
        "finetune_recovery_seconds",
        "Time from the end of a failed attempt until all pods of the next attempt run.",
        ["stage"],
        buckets=_LONG_SECONDS,
    ),
    "finetune_resumed_attempts": Counter(
        "finetune_resumed_attempts", "Train attempts that resumed from a checkpoint.", ["namespace"]
    ),
    "finetune_lost_steps": Counter(
        "finetune_lost_steps",
        "Optimizer steps of unsuccessful Train attempts after their newest checkpoint, by outcome and class"
        " of the failure, counted at the start of the next attempt or at the end of the job. Outcome"
        " RestartedInPlace: the steps that Train attempts repeated after restarts in place.",
        ["namespace", "outcome", "class"],
    ),
    "finetune_in_place_restarts": Counter(
        "finetune_in_place_restarts",
        "Restarts in place of Train attempts, by class of the failure before the last restart.",
        ["namespace", "class"],
    ),
}
"""The metrics of runs over time, see planning.milestones."""
_known_reasons: set[str] = set()


def count_milestones(milestones: Iterable[Milestone]) -> None:
    """Adds milestones to their counters and histograms."""
    for milestone in milestones:
        metric, labels = MILESTONES[milestone.metric], dict(milestone.labels)
        if "reason" in labels:
            labels["reason"] = _bound_reason(labels["reason"])
        series = metric.labels(**labels) if labels else metric
        if isinstance(series, Counter):
            series.inc(milestone.value)
        else:
            series.observe(milestone.value)


def _bound_reason(reason: str) -> str:
    if reason not in _known_reasons and len(_known_reasons) >= _MAX_REASONS:
        return _OTHER
    _known_reasons.add(reason)
    return reason


_JOB = ("namespace", "finetunejob")
_JOB_GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "finetune_job_info": ("Always 1.", (*_JOB, "task", "method")),
    "finetune_job_state": ("1 for the state and the stage of the job.", (*_JOB, "state", "stage")),
    "finetune_job_waiting": ("1 while the job waits, with the reason.", (*_JOB, "reason")),
    "finetune_job_progress_ratio": ("Share of the stage that is done, 0 to 1.", (*_JOB, "stage")),
    "finetune_job_attempt": ("Number of the newest attempt of a stage.", (*_JOB, "stage")),
    "finetune_job_checkpoint_step": ("Optimizer step of the newest complete checkpoint of the job.", _JOB),
    "finetune_job_checkpoint_timestamp_seconds": (
        "Unix time of the newest complete checkpoint, or of the start of the running Train attempt if later.",
        _JOB,
    ),
    "finetune_job_checkpoint_interval_seconds": (
        "Longest time between two checkpoints by the current spec: everyMinutes, or 3600 with Auto.",
        _JOB,
    ),
    "finetune_job_gpus": ("GPUs that the running Train attempt holds.", _JOB),
    "finetune_job_gpu_seconds": (
        "Time for which the pods of Train held GPUs, in seconds x GPUs, by use: see finetune_gpu_seconds.",
        (*_JOB, "use"),
    ),
    "finetune_job_nodes": (
        "Pods of the running Train attempt: running, or requested by the job (resources.nodes).",
        (*_JOB, "kind"),
    ),
    "finetune_job_requested_gpus": ("GPUs that the Train pods of an unfinished job request in total.", _JOB),
    "finetune_job_created_timestamp_seconds": ("Unix time of the creation of the job.", _JOB),
    "finetune_job_score": (
        "Value of the primary metric of a model: majority, baseline, tuned, or delta (tuned minus baseline).",
        (*_JOB, "metric", "model"),
    ),
    "finetune_job_score_lower_bound": (
        "Lower bound of the 95 % interval of the score.",
        (*_JOB, "metric", "model"),
    ),
    "finetune_job_score_upper_bound": (
        "Upper bound of the 95 % interval of the score.",
        (*_JOB, "metric", "model"),
    ),
    "finetune_job_estimated_memory_bytes": (
        "Memory that Prepare has estimated: of a process, of a Train pod, and of the Publish pod.",
        (*_JOB, "scope"),
    ),
    "finetune_job_report_info": ("Always 1: the address of the report of the job in S3.", (*_JOB, "uri")),
    "finetune_job_pod_info": (
        "Always 1: a pod of the job, to join metrics of pods and GPUs.",
        (*_JOB, "stage", "pod", "node"),
    ),
}
_AUTO_INTERVAL_SECONDS = 3600
"""The longest time between two checkpoints with everyMinutes Auto."""
_MOST_SICK_NODES = 100
"""Most values of the label `node` of the gauge of sick nodes."""
_MODELS = ("majority", "baseline", "tuned", "delta")


class JobCollector(Collector):
    """The gauges of the existing FineTuneJobs, computed at each scrape.

    The series of a job end `settings.finished_seconds` after the end of the job, and with the deletion of the
    job. If there are more than `settings.max_jobs` jobs, only the newest jobs have series.

    Args:
        jobs: returns the FineTuneJobs.
        pods: returns the pods of a run, by the uid of its FineTuneJob.
        progress: returns the newest progress of a run, by the uid of its FineTuneJob.
        now: the current time.
        settings: limits of the series of jobs.
        failures: returns the failures of all jobs that point to a node.
    """

    def __init__(
        self,
        jobs: Callable[[], Iterable[Manifest]],
        pods: Callable[[str], Iterable[Manifest]],
        progress: Callable[[str], Progress | None],
        now: Callable[[], datetime],
        settings: MetricsSettings,
        failures: Callable[[], Iterable[NodeFailure]] = tuple,
    ) -> None:
        self._failures = failures
        self._jobs, self._pods, self._progress = jobs, pods, progress
        self._now, self._settings = now, settings

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The gauges without series."""
        yield from self._families().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Computes the gauges."""
        families = self._families()
        jobs = list(self._jobs())
        states: Count[str] = Count({state.value: 0 for state in State})
        states.update(_state_of(job) for job in jobs)
        for state, number in sorted(states.items()):
            families["finetune_operator_jobs"].add_metric([state], number)
        shown = self._select(jobs)
        families["finetune_operator_jobs_without_series"].add_metric([], len(jobs) - len(shown))
        sick = Count(sick_nodes.suspects(self._failures(), self._now()))
        families["finetune_operator_sick_nodes"].add_metric([], len(sick))
        for name, failures in sick.most_common(_MOST_SICK_NODES):
            families["finetune_operator_sick_node_failures"].add_metric([name], failures)
        for job in shown:
            for name, labels, value in _series(job):
                families[name].add_metric(labels, value)
        for job in shown:
            meta = job["metadata"]
            for pod in self._pods(meta["uid"]):
                stage = (pod["metadata"].get("labels") or {}).get(LABEL_STAGE, "")
                if node := (pod.get("spec") or {}).get("nodeName"):
                    families["finetune_job_pod_info"].add_metric(
                        [meta["namespace"], meta["name"], stage, pod["metadata"]["name"], node], 1
                    )
            if not self._settings.pods_are_scraped and (progress := self._progress(meta["uid"])):
                labels = [meta["namespace"], meta["name"], str(progress.attempt), progress.stage.value]
                for gauge, value in gauge_values(progress):
                    families[gauge.name].add_metric(labels, value)
        yield from families.values()

    def _families(self) -> dict[str, GaugeMetricFamily]:
        families = {
            name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in _JOB_GAUGES.items()
        }
        gauges = () if self._settings.pods_are_scraped else GAUGES
        trainers = {g.name: GaugeMetricFamily(g.name, g.text, labels=GAUGE_LABELS) for g in gauges}
        return {
            "finetune_operator_jobs": GaugeMetricFamily(
                "finetune_operator_jobs", "FineTuneJobs by state.", labels=["state"]
            ),
            "finetune_operator_jobs_without_series": GaugeMetricFamily(
                "finetune_operator_jobs_without_series",
                "FineTuneJobs without series of their own, see settings.metrics.",
                labels=[],
            ),
            "finetune_operator_sick_nodes": GaugeMetricFamily(
                "finetune_operator_sick_nodes",
                f"Nodes to which at least {sick_nodes.STRIKES} failures of attempts in the last day point.",
                labels=[],
            ),
            "finetune_operator_sick_node_failures": GaugeMetricFamily(
                "finetune_operator_sick_node_failures",
                "Failures of attempts in the last day that point to a sick node, for at most"
                f" {_MOST_SICK_NODES} nodes.",
                labels=["node"],
            ),
            **families,
            **trainers,
        }

    def _select(self, jobs: list[Manifest]) -> list[Manifest]:
        if not self._settings.per_job:
            return []
        since = self._now() - timedelta(seconds=self._settings.finished_seconds)
        current = [
            job
            for job in jobs
            if (ended := moment((job.get("status") or {}).get("completionTime"))) is None or ended > since
        ]
        current.sort(key=lambda job: str(job["metadata"].get("creationTimestamp") or ""), reverse=True)
        return current[: self._settings.max_jobs]


def _state_of(job: Manifest) -> str:
    return (job.get("status") or {}).get("state") or State.PENDING.value


def _series(job: Manifest) -> Iterator[tuple[str, list[str], float]]:
    """The series of a job: name of the gauge, values of the labels, value."""
    meta, spec, status = job["metadata"], job.get("spec") or {}, job.get("status") or {}
    where, stage, state = [meta["namespace"], meta["name"]], status.get("stage") or "", _state_of(job)
    method = (spec.get("method") or {}).get("type") or "Full"
    yield "finetune_job_info", [*where, spec.get("task", ""), method], 1
    yield "finetune_job_state", [*where, state, stage], 1
    if created := moment(meta.get("creationTimestamp")):
        yield "finetune_job_created_timestamp_seconds", where, created.timestamp()
    if state == State.WAITING:
        reason = next(
            (
                c.get("reason", "")
                for c in status.get("conditions") or ()
                if c.get("type") == Condition.RUNNING
            ),
            "",
        )
        yield "finetune_job_waiting", [*where, reason], 1
    if "progress" in status:
        yield "finetune_job_progress_ratio", [*where, stage], status["progress"].get("percent", 0) / 100
    yield from _checkpoint(where, spec, status)
    yield from _gpu_seconds(where, status)
    yield from _gang(where, spec.get("resources") or {}, status)
    newest = {attempt.get("stage", ""): attempt.get("number", 1) for attempt in status.get("attempts") or ()}
    for attempted, number in newest.items():
        yield "finetune_job_attempt", [*where, attempted], number
    for scope, size in (status.get("memory") or {}).items():
        yield "finetune_job_estimated_memory_bytes", [*where, scope], size
    if report := status.get("report"):
        yield "finetune_job_report_info", [*where, report], 1
    yield from _scores(where, status.get("evaluation") or {})


def _gang(
    where: list[str], resources: Mapping[str, Any], status: Mapping[str, Any]
) -> Iterator[tuple[str, list[str], float]]:
    nodes, gpus_per_node = resources.get("nodes", 1), resources.get("gpusPerNode", 0)
    for attempt in status.get("attempts") or ():
        runs = attempt.get("stage") == "Train" and attempt.get("outcome") == "Running"
        if runs and attempt.get("runningSince"):
            running = attempt.get("nodes", nodes)
            yield "finetune_job_nodes", [*where, "running"], running
            yield "finetune_job_nodes", [*where, "requested"], nodes
            if gpus_per_node:
                yield "finetune_job_gpus", where, running * gpus_per_node
    if not status.get("completionTime"):
        yield "finetune_job_requested_gpus", where, nodes * gpus_per_node


def _checkpoint(
    where: list[str], spec: Mapping[str, Any], status: Mapping[str, Any]
) -> Iterator[tuple[str, list[str], float]]:
    progress, attempts = status.get("progress") or {}, status.get("attempts") or ()
    saved = [attempt.get("checkpointStep") for attempt in attempts]
    known = [step for step in (*saved, progress.get("checkpointStep")) if step is not None]
    if known:
        yield "finetune_job_checkpoint_step", where, known[-1]
    last = attempts[-1] if attempts else {}
    began = moment(last.get("runningSince"))
    if began and (last.get("stage"), last.get("outcome")) == ("Train", "Running"):
        newest = max(began, moment(progress.get("checkpointTime")) or began)
        yield "finetune_job_checkpoint_timestamp_seconds", where, newest.timestamp()
        every = (spec.get("checkpoints") or {}).get("everyMinutes")
        seconds = 60 * every if isinstance(every, int) else _AUTO_INTERVAL_SECONDS
        yield "finetune_job_checkpoint_interval_seconds", where, seconds


def _gpu_seconds(where: list[str], status: Mapping[str, Any]) -> Iterator[tuple[str, list[str], float]]:
    for use, held in (status.get("gpuSeconds") or {}).items():
        if use != "total":
            yield "finetune_job_gpu_seconds", [*where, use], held


def _scores(where: list[str], evaluation: Mapping[str, Any]) -> Iterator[tuple[str, list[str], float]]:
    metric = evaluation.get("primaryMetric", "")
    for model in _MODELS:
        scores = evaluation.get(model) or {}
        if "primary" not in scores:
            continue
        labels = [*where, metric, model]
        yield "finetune_job_score", labels, scores["primary"]
        interval = (scores.get("metrics") or {}).get(metric) or {}
        for bound, key in (("lower", "low"), ("upper", "high")):
            if key in interval:
                yield f"finetune_job_score_{bound}_bound", labels, interval[key]


def cleanup_failed(namespace: str, prefix: str, *, failed: bool) -> None:
    """Records whether the newest cleanup of a folder failed."""
    if failed:
        CLEANUP_FAILED.labels(namespace=namespace, prefix=prefix).set(1)
    else:
        with suppress(KeyError):
            CLEANUP_FAILED.remove(namespace, prefix)
