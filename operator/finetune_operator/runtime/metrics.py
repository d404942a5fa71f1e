"""The Prometheus metrics of the operator. Labels have few values; a scrape computes the metrics of jobs."""

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from prometheus_client import Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.names import State
from finetune_operator.objects import Manifest

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

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
BUILD = Info("finetune_operator_build", "Versions.")


class JobCollector(Collector):
    """Gauges of the existing FineTuneJobs, which `jobs` returns."""

    def __init__(self, jobs: Callable[[], Iterable[Manifest]]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Computes the gauges; called at each scrape."""
        by_state = GaugeMetricFamily("finetune_operator_jobs", "FineTuneJobs by state.", labels=["state"])
        info = GaugeMetricFamily(
            "finetune_job_info", "Always 1.", labels=["namespace", "name", "state", "stage"]
        )
        progress = GaugeMetricFamily(
            "finetune_job_progress_percent",
            "Progress of the stage in percent.",
            labels=["namespace", "name", "stage"],
        )
        score = GaugeMetricFamily(
            "finetune_job_score", "The primary metric.", labels=["namespace", "name", "metric", "model"]
        )
        states: Count[str] = Count({state.value: 0 for state in State})
        for job in self._jobs():
            where = [job["metadata"]["namespace"], job["metadata"]["name"]]
            status = job.get("status") or {}
            state, stage = status.get("state") or State.PENDING.value, status.get("stage") or ""
            states[state] += 1
            info.add_metric([*where, state, stage], 1)
            if "progress" in status:
                progress.add_metric([*where, stage], status["progress"].get("percent", 0))
            evaluation = status.get("evaluation") or {}
            for model in ("majority", "baseline", "tuned"):
                if (scores := evaluation.get(model)) and "primary" in scores:
                    score.add_metric([*where, evaluation.get("primaryMetric", ""), model], scores["primary"])
        for state, count in sorted(states.items()):
            by_state.add_metric([state], count)
        yield from (by_state, info, progress, score)


def cleanup_failed(namespace: str, prefix: str, *, failed: bool) -> None:
    """Records whether the newest cleanup of a folder failed."""
    if failed:
        CLEANUP_FAILED.labels(namespace=namespace, prefix=prefix).set(1)
    else:
        with suppress(KeyError):
            CLEANUP_FAILED.remove(namespace, prefix)
