"""The dashboard of the operator: its health, its work, its requests, and why attempts fail."""

from dashboards.model import Dashboard, Kind, Panel, Query, Row
from dashboards.promql import events, or_named, or_zero, recent_quantile

_NO_TARGET = {"target": "no target"}
_QUANTILES = ((0.5, "half"), (0.99, "99 %"))


def _of_operator(series: str) -> str:
    """A series of the process of the operator, which serves the metric of its version too."""
    return f"max by (instance) ({series} * on (instance, job) group_left () finetune_operator_build_info)"


def _by_namespace(expr: str) -> str:
    """The empty namespace stands for the whole cluster."""
    return f'label_replace({expr}, "namespace", "whole cluster", "namespace", "")'


def _rate(counter: str, by: str, selector: str = "") -> str:
    series = f"{counter}{{{selector}}}" if selector else counter
    return f"sum by ({by}) (rate({series}[$__rate_interval]))"


HEALTH = Row(
    100,
    "Health",
    (
        Panel(
            101,
            "Is there a leader?",
            "Replicas that lead. Exactly one replica leads; the others wait.",
            "No leader: FineTuneJobs neither start nor end. Look at the pods and the Lease of the operator.",
            Kind.STAT,
            (Query(or_zero("sum(finetune_operator_leader)")),),
            width=4,
            height=5,
            decimals=0,
            first_color="red",
            steps=((1, "green"), (2, "red")),
            values={0: ("no leader", "red"), 1: ("1 leader", "green")},
            alerts=("FineTuneOperatorNoLeader",),
        ),
        Panel(
            102,
            "Which version runs?",
            "Versions of the operator that Prometheus scrapes.",
            "Several versions are normal during an upgrade only.",
            Kind.STAT,
            (Query("count by (version) (finetune_operator_build_info)", "{{version}}"),),
            width=4,
            height=5,
            names=True,
        ),
        Panel(
            103,
            "How old is the last complete list?",
            "Time since the last complete list of each watched namespace. The operator lists every 300"
            " seconds.",
            "After 30 minutes, the operator may miss changes: look at its log and at the load of the API"
            " server.",
            Kind.BARS,
            (
                Query(
                    _by_namespace(
                        "time() - max by (namespace) (finetune_operator_last_resync_timestamp_seconds)"
                    ),
                    "{{namespace}}",
                ),
            ),
            unit="s",
            width=6,
            height=5,
            decimals=0,
            steps=((900, "orange"), (1800, "red")),
            alerts=("FineTuneOperatorResyncStale",),
        ),
        Panel(
            104,
            "Can the operator watch each namespace?",
            "1 while the operator can list and watch a namespace.",
            "A deleted namespace or a missing Role: the log of the operator names the cause once a minute.",
            Kind.STAT,
            (Query(_by_namespace("max by (namespace) (finetune_operator_scope_healthy)"), "{{namespace}}"),),
            width=6,
            height=5,
            first_color="red",
            steps=((1, "green"),),
            values={0: ("no", "red"), 1: ("yes", "green")},
            alerts=("FineTuneScopeUnhealthy",),
        ),
        Panel(
            105,
            "Is deleted data left?",
            "Folders in S3 whose cleanup failed. The operator repeats a failed cleanup every hour.",
            "Usually the Secret of the store was deleted, or its keys may not delete objects.",
            Kind.STAT,
            (Query(or_zero("count(max by (namespace, prefix) (finetune_operator_cleanup_failed))")),),
            width=4,
            height=5,
            decimals=0,
            steps=((1, "red"),),
            unit="folder(s)",
            values={0: ("no", "green")},
            alerts=("FineTuneCleanupFailed",),
        ),
        Panel(
            106,
            "When do certificate and token end?",
            "Time until the end of the TLS certificate of the metrics, and of the token for the Kubernetes"
            " API. Metrics without TLS have no certificate.",
            "Less than a tenth of the lifetime: the certificate or the token is not replaced. Look at"
            " cert-manager, or at the kubelet of the node.",
            Kind.LINES,
            (
                Query(
                    " or ".join(
                        f"label_replace((finetune_operator_{name}_end_timestamp_seconds > 0) - time(),"
                        f' "of", "{name}", "", "")'
                        for name in ("token", "certificate")
                    ),
                    "{{of}} of {{instance}}",
                ),
            ),
            unit="s",
            minimum=0,
            alerts=("FineTuneCertificateEnds", "FineTuneTokenEnds"),
        ),
    ),
)

WORK = Row(
    200,
    "Work",
    (
        Panel(
            201,
            "Do reconciles succeed?",
            "Reconciles in a second by result: done, retry (a request failed), error (an unexpected"
            " exception).",
            "Errors have a traceback in the log of the operator. Many retries: look at the API server.",
            Kind.LINES,
            (Query(_rate("finetune_operator_reconciles_total", "result"), "{{result}}"),),
            unit="ops",
            minimum=0,
            colors={"done": "green", "retry": "orange", "error": "red"},
            alerts=("FineTuneReconcileErrors",),
        ),
        Panel(
            202,
            "How long does a reconcile take?",
            "Duration of reconciles: half and 99 % of the reconciles take at most this time.",
            "Slow reconciles come from a slow API server: compare with the requests below.",
            Kind.LINES,
            tuple(
                Query(recent_quantile(q, "finetune_operator_reconcile_seconds"), name)
                for q, name in _QUANTILES
            ),
            unit="s",
            minimum=0,
        ),
        Panel(
            203,
            "How long do jobs wait for the operator?",
            "Time that a job waits for a free worker of the operator.",
            "More than some seconds: raise settings.workers, or look for slow reconciles.",
            Kind.LINES,
            tuple(
                Query(recent_quantile(q, "finetune_operator_queue_seconds"), name) for q, name in _QUANTILES
            ),
            unit="s",
            minimum=0,
        ),
        Panel(
            204,
            "How many jobs wait for the operator?",
            "Jobs that wait for a free worker of the operator.",
            "A number that grows without end: the operator is too slow for the number of changes.",
            Kind.LINES,
            (Query("max(finetune_operator_queue_depth)", "jobs"),),
            width=6,
            minimum=0,
            decimals=0,
        ),
        Panel(
            205,
            "Does the event loop keep up?",
            "How late the event loop runs a task: 99 % of the tasks run at most this time late.",
            "More than a second for a long time endangers the Lease: give the operator more CPU.",
            Kind.LINES,
            (Query(recent_quantile(0.99, "finetune_operator_event_loop_lag_seconds"), "99 %"),),
            unit="s",
            width=6,
            minimum=0,
            steps=((1, "red"),),
        ),
        Panel(
            206,
            "How much memory does the operator use?",
            "Memory of each process of the operator.",
            "Compare with resources.limits.memory of the chart. Many or large FineTuneJobs need more memory.",
            Kind.LINES,
            (Query(_of_operator("process_resident_memory_bytes"), "{{instance}}"),),
            unit="bytes",
            width=6,
            minimum=0,
        ),
        Panel(
            207,
            "How much CPU does the operator use?",
            "CPU time of each process of the operator in a second.",
            "A process that needs a whole CPU cannot become faster: set a quota on FineTuneJobs, or watch"
            " fewer namespaces.",
            Kind.LINES,
            (
                Query(
                    _of_operator("rate(process_cpu_seconds_total[$__rate_interval])"),
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            width=6,
            minimum=0,
            steps=((1, "red"),),
        ),
        Panel(
            208,
            "How many FineTuneJobs does the operator know?",
            "FineTuneJobs by state, in all watched namespaces.",
            "The operator keeps all existing FineTuneJobs in memory: set spec.ttl, so that ended jobs are"
            " deleted.",
            Kind.BARS,
            (
                Query(
                    or_named("max by (state) (finetune_operator_jobs) > 0", {"state": "no job"}),
                    "{{state}}",
                ),
            ),
            width=8,
            decimals=0,
        ),
        Panel(
            209,
            "Which jobs lack metrics?",
            "FineTuneJobs without series of their own, because of settings.metrics or because they ended"
            " long ago.",
            "If running jobs are missing on the dashboards, raise settings.metrics.maxJobs.",
            Kind.STAT,
            (Query("max(finetune_operator_jobs_without_series)"),),
            width=4,
            decimals=0,
        ),
        Panel(
            210,
            "How long does a complete list take?",
            "Duration of the last complete list of each watched namespace.",
            "Slow lists come from many or large objects: delete ended FineTuneJobs, or set a quota.",
            Kind.LINES,
            (
                Query(
                    _by_namespace("max by (namespace) (finetune_operator_resync_seconds)"),
                    "{{namespace}}",
                ),
            ),
            unit="s",
            width=12,
            minimum=0,
        ),
    ),
)

REQUESTS = Row(
    300,
    "Requests",
    (
        Panel(
            301,
            "What does the operator ask the API server?",
            "Requests to the Kubernetes API in a second, by verb and resource.",
            "A rate that grows without new jobs: look for a job whose reconciles repeat.",
            Kind.LINES,
            (
                Query(
                    _rate("finetune_operator_api_requests_total", "verb, resource"), "{{verb}} {{resource}}"
                ),
            ),
            unit="reqps",
            minimum=0,
        ),
        Panel(
            302,
            "Which requests fail?",
            "Requests without success by code: 409 is a conflict and normal now and then, 429 is a limit of"
            " the API server,"
            " 403 is a missing right, none is a broken connection.",
            "403: run `helm upgrade` to restore the Roles. 429 and 5xx: look at the load of the API server.",
            Kind.LINES,
            (
                Query(
                    or_named(
                        _rate("finetune_operator_api_requests_total", "code", 'code!~"2.."'),
                        {"code": "no failure"},
                    ),
                    "{{code}}",
                ),
            ),
            unit="reqps",
            colors={"no failure": "text"},
            minimum=0,
        ),
        Panel(
            303,
            "Do trainers answer?",
            "Requests of the operator to trainer pods for their progress, by result.",
            "unreachable: a NetworkPolicy or a pod that just ended. invalid: the trainer has another"
            " version.",
            Kind.LINES,
            (Query(_rate("finetune_operator_progress_polls_total", "result"), "{{result}}"),),
            unit="reqps",
            minimum=0,
            colors={"answered": "green", "unreachable": "orange", "invalid": "red"},
        ),
        Panel(
            304,
            "Why do watches start again?",
            "Restarts of watches within an hour, by cause: ended and expired are normal, silent, broken and"
            " refused"
            " are not.",
            "refused: a missing right. silent and broken: look at proxies between the operator and the API"
            " server.",
            Kind.LINES,
            (
                Query(
                    or_named(
                        events("finetune_operator_watch_restarts_total", "cause", window="1h"),
                        {"cause": "no restart"},
                    ),
                    "{{cause}}",
                ),
            ),
            width=12,
            colors={"no restart": "text"},
            minimum=0,
            decimals=0,
        ),
        Panel(
            305,
            "Are deleted jobs cleaned up?",
            "Ended cleanups of deleted FineTuneJobs in the time range, by result.",
            "The Event CleanupFailed and the log of the cleanup Job have the cause.",
            Kind.BARS,
            (
                Query(
                    or_named(
                        events("finetune_operator_cleanups_total", "result"), {"result": "no job was deleted"}
                    ),
                    "{{result}}",
                ),
            ),
            width=12,
            decimals=0,
        ),
        Panel(
            306,
            "Do notifications arrive?",
            "Requests to notification targets within an hour, by target and result: delivered, retried,"
            " failed (the operator has given up), deferred (too many are pending).",
            "retried and failed: the log of the operator names the target and the cause.",
            Kind.LINES,
            (
                Query(
                    or_named(
                        events("finetune_operator_notifications_total", "target, result", window="1h"),
                        {**_NO_TARGET, "result": ""},
                    ),
                    "{{target}} {{result}}",
                ),
            ),
            width=12,
            minimum=0,
            decimals=0,
            alerts=("FineTuneNotificationsFailing",),
        ),
        Panel(
            307,
            "How long do notifications wait?",
            "Time since the event of the oldest pending notification of each target.",
            "More than some seconds: the target is away, or answers with an error.",
            Kind.LINES,
            (
                Query(
                    or_named(
                        "max by (target) (finetune_operator_notifications_oldest_pending_seconds)", _NO_TARGET
                    ),
                    "{{target}}",
                ),
            ),
            unit="s",
            width=6,
            minimum=0,
            steps=((900, "red"),),
        ),
        Panel(
            308,
            "How many notifications wait?",
            "Notifications that the operator still tries to deliver.",
            "At 1,000 for one target, further notifications wait in the status of their jobs.",
            Kind.LINES,
            (
                Query(
                    or_named("max by (target) (finetune_operator_notifications_pending)", _NO_TARGET),
                    "{{target}}",
                ),
            ),
            width=6,
            minimum=0,
            decimals=0,
        ),
    ),
)

FAILURES = Row(
    400,
    "Failures of attempts",
    (
        Panel(
            401,
            "Why do attempts fail?",
            "Failed attempts within an hour, by stage and class. UserConfig and UserData are mistakes in a"
            " job.",
            "Storage: look at the store. Communication and Hang: look at nodes and network. OutOfMemory: the"
            " jobs need"
            " more memory. Numerical: a loss was not finite.",
            Kind.LINES,
            (
                Query(
                    or_named(
                        events("finetune_attempts_total", "stage, class", 'outcome="Failed"', window="1h"),
                        {"stage": "no", "class": "failure"},
                    ),
                    "{{stage}} {{class}}",
                ),
            ),
            width=16,
            colors={"no failure": "text"},
            minimum=0,
            decimals=0,
            alerts=("FineTuneAttemptsFail", "FineTuneLossNotFinite"),
        ),
        Panel(
            402,
            "Which failures are frequent?",
            "Failed attempts in the time range, by class.",
            "docs/runbooks.md and docs/reasons.md name the remedies of each class.",
            Kind.BARS,
            (
                Query(
                    or_named(
                        events("finetune_attempts_total", "class", 'outcome="Failed"'),
                        {"class": "no failure"},
                    ),
                    "{{class}}",
                ),
            ),
            decimals=0,
        ),
    ),
)

BOARD = Dashboard(
    uid="finetune-operator",
    title="Fine-tuning: operator",
    about="The operator: its health, its work, its requests, and why attempts of jobs fail.",
    rows=(HEALTH, WORK, REQUESTS, FAILURES),
)
