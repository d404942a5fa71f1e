"""Metrics of other software that panels and alerts use: where they come from, and their labels.

docs/metrics.md lists the metrics of the product itself.
"""

from dataclasses import dataclass

DCGM = "the DCGM exporter"
KUEUE = "Kueue with enableClusterQueueResources"
KUBE_STATE = "kube-state-metrics"
CONTAINERS = "kube-state-metrics and the metrics of the kubelet (cAdvisor)"


@dataclass(frozen=True)
class Foreign:
    """A metric of other software."""

    source: str
    kind: str
    labels: tuple[str, ...]


_GPU = ("gpu", "namespace", "pod", "exported_namespace", "exported_pod", "Hostname")
_QUOTA = ("cohort", "cluster_queue", "flavor", "resource")
_LIMITS = ("namespace", "pod", "container", "resource", "node")

FOREIGN = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": Foreign(DCGM, "gauge", _GPU),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": Foreign(DCGM, "gauge", _GPU),
    "DCGM_FI_DEV_FB_USED": Foreign(DCGM, "gauge", _GPU),
    "DCGM_FI_DEV_POWER_USAGE": Foreign(DCGM, "gauge", _GPU),
    "DCGM_FI_DEV_GPU_TEMP": Foreign(DCGM, "gauge", _GPU),
    "DCGM_FI_DEV_XID_ERRORS": Foreign(DCGM, "gauge", _GPU),
    "kueue_pending_workloads": Foreign(KUEUE, "gauge", ("cluster_queue", "status")),
    "kueue_admission_wait_time_seconds": Foreign(KUEUE, "histogram", ("cluster_queue",)),
    "kueue_evicted_workloads_total": Foreign(KUEUE, "counter", ("cluster_queue", "reason")),
    "kueue_cluster_queue_resource_usage": Foreign(KUEUE, "gauge", _QUOTA),
    "kueue_cluster_queue_nominal_quota": Foreign(KUEUE, "gauge", _QUOTA),
    "kube_node_status_allocatable": Foreign(KUBE_STATE, "gauge", ("node", "resource", "unit")),
    "kube_pod_container_resource_requests": Foreign(KUBE_STATE, "gauge", _LIMITS),
    "kube_pod_container_resource_limits": Foreign(KUBE_STATE, "gauge", _LIMITS),
    "kube_pod_status_phase": Foreign(KUBE_STATE, "gauge", ("namespace", "pod", "phase")),
    "container_memory_working_set_bytes": Foreign(CONTAINERS, "gauge", ("namespace", "pod", "container")),
    "process_resident_memory_bytes": Foreign("", "gauge", ()),
    "process_cpu_seconds_total": Foreign("", "counter", ()),
}
"""By name. An empty source is the operator itself: its Prometheus client serves these metrics."""
