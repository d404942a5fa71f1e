"""The dashboard about GPUs: demand, use, free GPUs, quota and sick nodes."""

from dashboards import exporters
from dashboards.fleet import NAMESPACE
from dashboards.model import Dashboard, Kind, Panel, Query, Row
from dashboards.promql import (
    GPU_RESOURCE,
    NODE_FAULTS,
    each_job,
    events,
    of_jobs,
    or_named,
    or_zero,
    quantile,
)

_JOBS = 'namespace=~"$namespace"'
_HELD = each_job("finetune_job_gpus", _JOBS)
_REQUESTED = each_job("finetune_job_requested_gpus", _JOBS)
_ALLOCATABLE = f'max by (node) (kube_node_status_allocatable{{resource="{GPU_RESOURCE}"}})'
_TAKEN = (
    f'sum by (node) (kube_pod_container_resource_requests{{resource="{GPU_RESOURCE}"}}'
    " * on (namespace, pod) group_left () (max by (namespace, pod)"
    ' (kube_pod_status_phase{phase=~"Pending|Running"}) == 1))'
)

DEMAND = Row(
    100,
    "Demand",
    (
        Panel(
            101,
            "How many GPUs do jobs request, and how many do they hold?",
            "GPUs that the Train pods of unfinished jobs request, and GPUs of running Train attempts.",
            "A gap that lasts: jobs wait for GPUs or prepare data. The panel of the reasons tells which.",
            Kind.LINES,
            (
                Query(or_zero(f"sum({_REQUESTED})"), "requested"),
                Query(or_zero(f"sum({_HELD})"), "held"),
            ),
            width=12,
            minimum=0,
            decimals=0,
            colors={"requested": "orange", "held": "blue"},
        ),
        Panel(
            102,
            "Who holds the GPUs?",
            "GPUs of running Train attempts by namespace.",
            "One namespace that holds all GPUs for days: set a quota (Kueue or ResourceQuota).",
            Kind.LINES,
            (
                Query(
                    or_named(f"sum by (namespace) ({_HELD})", {"namespace": "no job holds GPUs"}),
                    "{{namespace}}",
                ),
            ),
            width=12,
            colors={"no job holds GPUs": "text"},
            minimum=0,
            decimals=0,
            stacked=True,
        ),
        Panel(
            103,
            "What did jobs wait for?",
            "Waiting FineTuneJobs by reason over time.",
            "Unschedulable: no node fits the pods. Queued: the quota is used up. docs/reasons.md has the"
            " remedies.",
            Kind.LINES,
            (
                Query(
                    or_named(
                        f"sum by (reason) ({each_job('finetune_job_waiting', _JOBS, 'reason')})",
                        {"reason": "no job waits"},
                    ),
                    "{{reason}}",
                ),
            ),
            colors={"no job waits": "text"},
            minimum=0,
            decimals=0,
            stacked=True,
        ),
        Panel(
            104,
            "How long do attempts wait for their pods?",
            "Time from the creation of the Job of an attempt until all its pods run, in the time range, by"
            " stage.",
            "Long waits of Train alone: GPUs are scarce. Long waits of all stages: images are slow to pull.",
            Kind.TABLE,
            tuple(
                Query(quantile(share, "finetune_queue_wait_seconds", "stage"), title, "s", 0)
                for share, title in ((0.5, "half of the attempts"), (0.95, "95 % of the attempts"))
            ),
            columns=("stage",),
            empty="No attempt started in the time range.",
        ),
        Panel(
            105,
            "Which nodes may be sick?",
            "Attempts that failed first on a node by a hang, a broken connection or an internal error, in"
            " the time range.",
            "Cordon a node with three or more failures, and test its GPUs and its network.",
            Kind.BARS,
            (
                Query(
                    or_named(
                        "topk(10, "
                        + events("finetune_attempts_total", "node", f'node!="",class=~"{NODE_FAULTS}"')
                        + ")",
                        {"node": "no node"},
                    ),
                    "{{node}}",
                ),
            ),
            decimals=0,
            steps=((1, "orange"), (3, "red")),
            alerts=("FineTuneNodeSuspicious",),
        ),
    ),
)

NODES = Row(
    200,
    "Nodes",
    (
        Panel(
            201,
            "How many GPUs are there?",
            "GPUs of all nodes, GPUs that pods of any kind have taken, and GPUs that jobs request.",
            "If jobs request more GPUs than are free, jobs wait: free GPUs, or add nodes.",
            Kind.LINES,
            (
                Query(f"sum({_ALLOCATABLE})", "all"),
                Query(or_zero(f"sum({_TAKEN})"), "taken"),
                Query(or_zero(f"sum({_REQUESTED})"), "requested by jobs"),
            ),
            minimum=0,
            decimals=0,
        ),
        Panel(
            202,
            "Where are free GPUs?",
            "Free GPUs of each node. The pods of a gang with four GPUs each need nodes with four free GPUs.",
            "Free GPUs on many nodes that are too few on each node: use fewer GPUs per pod.",
            Kind.BARS,
            (Query(f"{_ALLOCATABLE} - ({_TAKEN} or {_ALLOCATABLE} * 0)", "{{node}}"),),
            decimals=0,
            first_color="red",
            steps=((1, "green"),),
        ),
        Panel(
            203,
            "Will the GPUs be enough in four weeks?",
            "Requested GPUs in four weeks, if the demand of the last four weeks goes on, and GPUs that are"
            " there. The"
            " forecast is a straight line and needs some weeks of data.",
            "A forecast above the GPUs that are there: plan nodes, or quotas.",
            Kind.STAT,
            (
                Query(
                    f"clamp_min(predict_linear(({or_zero(f'sum({_REQUESTED})')})[28d:5m], 28 * 86400), 0)",
                    "forecast",
                ),
                Query(f"sum({_ALLOCATABLE})", "there"),
            ),
            decimals=0,
        ),
    ),
    needs=exporters.KUBE_STATE,
)

GPUS = Row(
    300,
    "GPUs",
    (
        Panel(
            301,
            "How many GPUs work?",
            "GPUs that were more than 5 % active, and GPUs that the DCGM exporter knows.",
            "Many idle GPUs while jobs wait: look at the fragmentation of the free GPUs.",
            Kind.LINES,
            (
                Query(or_zero("count(DCGM_FI_PROF_GR_ENGINE_ACTIVE > 0.05)"), "at work"),
                Query("count(DCGM_FI_PROF_GR_ENGINE_ACTIVE)", "known"),
            ),
            width=12,
            minimum=0,
            decimals=0,
        ),
        Panel(
            302,
            "Which jobs hold idle GPUs?",
            "GPUs that a job holds and that were less than 5 % active on average for 30 minutes.",
            "Ask the author of the job. spec.suspend frees the GPUs.",
            Kind.BARS,
            (
                Query(
                    or_named(
                        f"{_HELD} and on (namespace, finetunejob) ("
                        + of_jobs(
                            "avg by (namespace, finetunejob)",
                            "avg_over_time(DCGM_FI_PROF_GR_ENGINE_ACTIVE[30m])",
                            _JOBS,
                        )
                        + " < 0.05)",
                        {"namespace": "no", "finetunejob": "job"},
                    ),
                    "{{namespace}} {{finetunejob}}",
                ),
            ),
            width=12,
            decimals=0,
            steps=((1, "red"),),
        ),
    ),
    needs=exporters.DCGM,
)

QUEUES = Row(
    400,
    "Queues",
    (
        Panel(
            401,
            "How many workloads wait in each queue?",
            "Pending workloads of each ClusterQueue. Inadmissible workloads do not fit the quota at all.",
            "Inadmissible workloads: compare the requests of the job with the nominal quota.",
            Kind.LINES,
            (
                Query(
                    "sum by (cluster_queue, status) (kueue_pending_workloads)", "{{cluster_queue}} {{status}}"
                ),
            ),
            width=12,
            minimum=0,
            decimals=0,
            stacked=True,
        ),
        Panel(
            402,
            "How long do workloads wait for admission?",
            "Time from the creation of a workload until its admission, for 95 % of the workloads.",
            "Long waits: raise the quota, or let queues borrow from each other (a cohort).",
            Kind.BARS,
            (
                Query(
                    quantile(0.95, "kueue_admission_wait_time_seconds", "cluster_queue"), "{{cluster_queue}}"
                ),
            ),
            unit="s",
            width=12,
            decimals=0,
        ),
        Panel(
            403,
            "How much of the quota is used?",
            "Used share of the nominal quota of GPUs. More than 100 % is borrowed from other queues.",
            "A queue that always borrows needs more quota; a queue that never uses its quota can give some"
            " away.",
            Kind.BARS,
            (
                Query(
                    'sum by (cluster_queue) (kueue_cluster_queue_resource_usage{resource="nvidia.com/gpu"})'
                    " / sum by (cluster_queue)"
                    ' (kueue_cluster_queue_nominal_quota{resource="nvidia.com/gpu"})',
                    "{{cluster_queue}}",
                ),
            ),
            unit="percentunit",
            width=12,
            decimals=0,
            steps=((0.9, "orange"), (1.001, "red")),
        ),
        Panel(
            404,
            "Why were workloads evicted?",
            "Evicted workloads in the time range, by reason. The operator starts an evicted job again.",
            "Many preemptions: look at the priorities, and at checkpoints, which limit the lost time.",
            Kind.BARS,
            (
                Query(
                    or_named(events("kueue_evicted_workloads_total", "reason"), {"reason": "no workload"}),
                    "{{reason}}",
                ),
            ),
            width=12,
            decimals=0,
        ),
    ),
    needs=exporters.KUEUE,
)

BOARD = Dashboard(
    uid="finetune-capacity",
    title="Fine-tuning: capacity",
    about="GPUs: how many jobs request and hold, where free GPUs are, and which nodes may be sick.",
    rows=(DEMAND, NODES, GPUS, QUEUES),
    since="now-24h",
    variables=(NAMESPACE,),
)
