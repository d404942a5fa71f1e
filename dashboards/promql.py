"""PURE. Parts of queries that several panels use."""

from collections.abc import Mapping

from dashboards.states import STATE_CODES

GPU_RESOURCE = "nvidia_com_gpu"
"""The resource nvidia.com/gpu in the metrics of kube-state-metrics."""
NODE_FAULTS = "Hang|Communication|Internal"
"""Failure classes that often come from a node; the alert FineTuneNodeSuspicious has the same list."""


def events(metric: str, by: str, selector: str = "", window: str = "$__range") -> str:
    """The growth of a counter within a time window, by labels.

    A counter of events begins with its first event, which increase() alone misses. So the value of a series
    that has no sample in the hour before the window counts in full.

    Args:
        metric: name of the counter.
        by: names of labels, separated by commas; empty for one sum.
        selector: matchers of labels.
        window: a duration.
    """
    series = f"{metric}{{{selector}}}" if selector else metric
    new = f"last_over_time({series}[{window}]) unless last_over_time({series}[1h] offset {window})"
    return f"sum by ({by}) (({new}) or increase({series}[{window}]))"


def quantile(share: float, histogram: str, by: str = "", selector: str = "") -> str:
    """A quantile of all observations of a histogram within the time range of the dashboard."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {events(f'{histogram}_bucket', labels, selector)})"


def recent_quantile(share: float, histogram: str) -> str:
    """A quantile of the newest observations of a histogram, over time."""
    return f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket[$__rate_interval])))"


def or_zero(expr: str) -> str:
    """Zero in place of no result."""
    return f"({expr}) or on () vector(0)"


def or_named(expr: str, labels: Mapping[str, str]) -> str:
    """A zero with labels in place of no result. Grafana needs all labels that the legend names."""
    named = "vector(0)"
    for label, text in labels.items():
        named = f'label_replace({named}, "{label}", "{text}", "", "")'
    return f"({expr}) or on () {named}"


def each_job(gauge: str, selector: str, *labels: str) -> str:
    """A gauge of jobs, once for each job: two replicas may show the same job for a moment."""
    by = ", ".join(("namespace", "finetunejob", *labels))
    return f"max by ({by}) ({gauge}{{{selector}}})"


def state_code(selector: str) -> str:
    """The state of each job as a number, see STATE_CODES."""
    codes = " or ".join(
        f'finetune_job_state{{{selector},state="{state}"}} * 0 + {code}'
        for state, code in STATE_CODES.items()
    )
    return f"max by (namespace, finetunejob) ({codes})"


def of_pods(series: str) -> str:
    """Series of an exporter with the labels of the pod that a device or container belongs to.

    Prometheus renames the labels `namespace` and `pod` of an exporter to `exported_...` unless the scrape has
    honorLabels.
    """
    for label in ("namespace", "pod"):
        series = f'label_replace({series}, "{label}", "$1", "exported_{label}", "(.+)")'
    return series


def of_jobs(aggregation: str, series: str, selector: str) -> str:
    """Series of an exporter about pods, with the job and the node of each pod, aggregated.

    Args:
        aggregation: for example `avg by (namespace, finetunejob)`.
        series: a query whose result has the labels of pods.
        selector: matchers of the jobs.
    """
    info = f"max by (namespace, pod, finetunejob, node) (finetune_job_pod_info{{{selector}}})"
    return f"{aggregation} ({of_pods(series)} * on (namespace, pod) group_left (finetunejob, node) {info})"
