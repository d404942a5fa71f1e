"""The dashboard of all jobs: what runs, how jobs end, what tuning gained, who used the GPUs."""

from dashboards import exporters
from dashboards.model import Dashboard, Kind, Link, Panel, Query, Row, Variable
from dashboards.promql import each_job, events, of_jobs, or_named, or_zero, quantile, state_code
from dashboards.states import STATE_COLORS, STATE_VALUES

_JOBS = 'namespace=~"$namespace"'
JOB_LINK = Link(
    "Dashboard of the job",
    "/d/finetune-job?${datasource:queryparam}&var-namespace=${__data.fields.namespace}"
    "&var-job=${__data.fields.finetunejob}&${__url_time_range}",
)
NAMESPACE = Variable(
    "namespace",
    "Namespace",
    'label_values({__name__=~"finetune_job_info|finetune_jobs_finished_total"}, namespace)',
    several=True,
)
_LOST = events("finetune_gpu_seconds_total", "", f'{_JOBS},use="lost"')
_RUNNING = f'{_JOBS},kind="running"'
_REQUESTED = f'{_JOBS},kind="requested"'
_HELD = events("finetune_gpu_seconds_total", "", _JOBS)

NOW = Row(
    100,
    "Now",
    (
        Panel(
            101,
            "How many jobs run?",
            "FineTuneJobs that prepare data, train or publish now.",
            "If jobs exist and none runs, look at the panel of the waiting jobs and at the dashboard of the"
            " operator.",
            Kind.STAT,
            (
                Query(
                    or_zero(
                        "sum("
                        + each_job(
                            "finetune_job_state", f'{_JOBS},state=~"Preparing|Training|Publishing"', "state"
                        )
                        + ")"
                    )
                ),
            ),
            width=4,
            height=6,
        ),
        Panel(
            102,
            "How many GPUs are held?",
            "GPUs of running Train attempts. Jobs on CPUs hold none.",
            "The dashboard about capacity compares held and requested GPUs.",
            Kind.STAT,
            (Query(or_zero(f"sum({each_job('finetune_job_gpus', _JOBS)})")),),
            width=4,
            height=6,
        ),
        Panel(
            103,
            "What do jobs wait for?",
            "Waiting FineTuneJobs by reason. docs/reasons.md explains each reason and its remedy.",
            "Queued is normal while other jobs hold the quota. For other reasons, follow status.message of"
            " the job.",
            Kind.BARS,
            (
                Query(
                    or_named(
                        f"sum by (reason) ({each_job('finetune_job_waiting', _JOBS, 'reason')})",
                        {"reason": "no job waits"},
                    ),
                    "{{reason}}",
                ),
            ),
            width=6,
            height=6,
        ),
        Panel(
            104,
            "How do jobs develop?",
            "FineTuneJobs by state over time. A job keeps its state for one hour after its end.",
            "A growing number of waiting jobs needs GPUs or quota; failed jobs have their reasons below.",
            Kind.LINES,
            (
                Query(
                    "sum by (state) (" + each_job("finetune_job_state", _JOBS, "state") + ")",
                    "{{state}}",
                ),
            ),
            width=10,
            height=6,
            minimum=0,
            decimals=0,
            stacked=True,
            colors=STATE_COLORS,
        ),
        Panel(
            105,
            "Which jobs are there, and when does their stage end?",
            "Existing FineTuneJobs, and jobs that ended less than an hour ago. A click on a name opens the"
            " job.",
            "Open the job to see the cause of a failure, a wait or a flat loss.",
            Kind.TABLE,
            (
                Query(state_code(_JOBS), "state", values=STATE_VALUES),
                Query(each_job("finetune_job_progress_ratio", _JOBS), "progress", "percentunit", 0),
                Query(
                    f"max by (namespace, finetunejob) (finetune_trainer_eta_seconds{{{_JOBS}}})",
                    "stage ends in",
                    "s",
                    0,
                ),
                Query(
                    f"max by (namespace, finetunejob) (finetune_trainer_loss{{{_JOBS}}})",
                    "loss",
                    "none",
                    3,
                ),
                Query(each_job("finetune_job_gpus", _JOBS), "GPUs", "none", 0),
                Query(
                    "time() - " + each_job("finetune_job_created_timestamp_seconds", _JOBS),
                    "age",
                    "s",
                    0,
                ),
            ),
            width=24,
            height=8,
            columns=("namespace", "finetunejob"),
            links={"finetunejob": JOB_LINK},
        ),
    ),
)

RESULTS = Row(
    200,
    "Results in the time range",
    (
        Panel(
            201,
            "How do jobs end?",
            "Ended FineTuneJobs by outcome and reason, the ten most frequent. GateFailed means that training"
            " worked"
            " and the tuned model did not meet the gate.",
            "docs/reasons.md explains each reason. Many failures with one reason have one cause.",
            Kind.BARS,
            (
                Query(
                    or_named(
                        f"topk(10, {events('finetune_jobs_finished_total', 'outcome, reason', _JOBS)})",
                        {"outcome": "no job", "reason": "ended"},
                    ),
                    "{{outcome}} {{reason}}",
                ),
            ),
            width=6,
            decimals=0,
        ),
        Panel(
            202,
            "Are the gates met?",
            "Decided gates of FineTuneJobs, by result. A job without a gate does not count.",
            "Compare the scores beside this panel: a gate may be too strict, or the data may not fit the"
            " task.",
            Kind.BARS,
            (
                Query(
                    or_named(events("finetune_gates_total", "result", _JOBS), {"result": "no gate decided"}),
                    "{{result}}",
                ),
            ),
            width=4,
            decimals=0,
        ),
        Panel(
            203,
            "Was tuning worth the effort?",
            "Scores on the same test rows: the base model, the tuned model, and the difference. For a loss,"
            " a negative"
            " difference is an improvement.",
            "A difference near zero means that the base model is as good: look at the report of the data and"
            " the loss.",
            Kind.TABLE,
            tuple(
                Query(
                    f"max by (namespace, finetunejob, metric) "
                    f'(last_over_time(finetune_job_score{{{_JOBS},model="{model}"}}[$__range]))',
                    title,
                    "none",
                    3,
                )
                for model, title in (
                    ("baseline", "base model"),
                    ("tuned", "tuned model"),
                    ("delta", "difference"),
                )
            ),
            width=14,
            columns=("namespace", "finetunejob", "metric"),
            empty="No job has been evaluated in the time range.",
            links={"finetunejob": JOB_LINK},
        ),
    ),
)

TIME = Row(
    300,
    "Time in the time range",
    (
        Panel(
            301,
            "Who used GPU time, and for what?",
            "Time x GPUs of ended Train attempts, by namespace and use. Lost: steps that the next attempt"
            " repeats. Waiting: held GPUs without work, such as pods that wait for their gang.",
            "Much lost time: failures between two checkpoints; the next panels have the causes. Much waiting"
            " time: slow images, incomplete gangs and hanging processes.",
            Kind.BARS,
            (
                Query(
                    or_named(
                        f"{events('finetune_gpu_seconds_total', 'namespace, use', _JOBS)} / 3600",
                        {"namespace": "no attempt", "use": "on GPUs"},
                    ),
                    "{{namespace}} {{use}}",
                ),
            ),
            unit="h",
            decimals=1,
        ),
        Panel(
            302,
            "Was GPU time lost?",
            "Share of the time x GPUs of ended Train attempts whose steps the next attempt repeats.",
            "Lower spec.checkpoints.everyMinutes of large jobs. Look at the classes of failures on the"
            " dashboard of the operator, and at sick nodes.",
            Kind.STAT,
            (Query(f"({or_zero(_LOST)}) / clamp_min({or_zero(_HELD)}, 1)"),),
            unit="percentunit",
            width=4,
            minimum=0,
            decimals=1,
            steps=((0.1, "orange"), (0.25, "red")),
        ),
        Panel(
            303,
            "When is the first step?",
            "Time from the creation of a FineTuneJob until the first optimizer step, for half and for 95 %"
            " of the jobs.",
            "Long waits come from the queue, from pulling images and from Prepare; see the panels beside"
            " this one.",
            Kind.STAT,
            tuple(
                Query(quantile(share, "finetune_time_to_first_step_seconds"), title)
                for share, title in ((0.5, "half"), (0.95, "95 %"))
            ),
            unit="s",
            width=4,
            decimals=1,
            empty="no job reached a step",
        ),
        Panel(
            304,
            "How long do stages take?",
            "Time from the start of a stage until its success, for half of the jobs, with all attempts of"
            " the stage.",
            "Compare with the sizes of the data and the model; a slow store slows Prepare and Publish.",
            Kind.BARS,
            (Query(quantile(0.5, "finetune_stage_duration_seconds", "stage"), "{{stage}}"),),
            unit="s",
            width=4,
            decimals=1,
            empty="no stage succeeded",
        ),
        Panel(
            305,
            "How long until pods run?",
            "Time from the creation of the Job of an attempt until all its pods run, for 95 % of the"
            " attempts.",
            "Look at free GPUs, at quota, and at the time that the nodes need to pull the image.",
            Kind.BARS,
            (Query(quantile(0.95, "finetune_queue_wait_seconds", "stage"), "{{stage}}"),),
            unit="s",
            width=4,
            decimals=1,
            empty="no attempt started",
        ),
        Panel(
            306,
            "How fast do jobs recover?",
            "Time from the end of a failed attempt until all pods of the next attempt run, for 95 % of the"
            " failures.",
            "A slow recovery wastes GPUs that other pods of the gang hold: look at free nodes and image"
            " pulls.",
            Kind.BARS,
            (
                Query(
                    or_named(
                        quantile(0.95, "finetune_recovery_seconds", "stage"), {"stage": "no attempt failed"}
                    ),
                    "{{stage}}",
                ),
            ),
            unit="s",
            width=8,
            height=6,
            decimals=1,
        ),
        Panel(
            307,
            "How many attempts end each hour?",
            "Ended attempts of all stages by outcome. Failed attempts start again while the job has restarts"
            " left.",
            "The dashboard of the operator has the classes of the failures.",
            Kind.LINES,
            (
                Query(
                    events("finetune_attempts_total", "outcome", window="1h"),
                    "{{outcome}}",
                ),
            ),
            width=16,
            height=6,
            minimum=0,
            decimals=0,
            colors={"Failed": "red", "Succeeded": "green"},
        ),
        Panel(
            308,
            "How many steps did attempts lose?",
            "Optimizer steps of unsuccessful Train attempts after their newest checkpoint, by outcome and"
            " class. The next attempt repeats these steps.",
            "Many lost steps of one class: remove its cause, or save checkpoints more often"
            " (spec.checkpoints.everyMinutes).",
            Kind.BARS,
            (
                Query(
                    or_named(
                        events("finetune_lost_steps_total", "outcome, class", _JOBS),
                        {"outcome": "no step", "class": "lost"},
                    ),
                    "{{outcome}} {{class}}",
                ),
            ),
            width=16,
            height=6,
            decimals=0,
        ),
        Panel(
            309,
            "How many attempts resumed from a checkpoint?",
            "Train attempts that continued from a checkpoint, in new pods or after a restart in place.",
            "Fewer than the failed Train attempts: attempts fail before they save or load a checkpoint.",
            Kind.STAT,
            (Query(or_zero(events("finetune_resumed_attempts_total", "", _JOBS))),),
            width=8,
            height=6,
            decimals=0,
        ),
        Panel(
            310,
            "How many restarts in place, by class of the failure?",
            "Restarts in place: the processes of all pods of an attempt started again in the same pods.",
            "Many restarts of one class: look for their cause on the nodes; the Events RestartedInPlace name"
            " the jobs.",
            Kind.BARS,
            (
                Query(
                    or_named(
                        events("finetune_in_place_restarts_total", "class", _JOBS), {"class": "no restart"}
                    ),
                    "{{class}}",
                ),
            ),
            width=24,
            height=6,
            decimals=0,
        ),
    ),
)

NODES = Row(
    500,
    "Nodes",
    (
        Panel(
            501,
            "Which nodes are sick?",
            "Failures of attempts in the last day that point to a node, for nodes with at least two. Train"
            " pods may prefer other nodes.",
            "Test the GPUs and the network of the node, and cordon the node meanwhile.",
            Kind.TABLE,
            (Query("max by (node) (finetune_operator_sick_node_failures)", "failures", "none", 0),),
            width=12,
            columns=("node",),
            empty="No node has two failures.",
        ),
        Panel(
            502,
            "Which jobs run on fewer nodes?",
            "Nodes of running Train attempts that lack nodes, as a share of the nodes that the job requests"
            " (resources.minNodes).",
            "Add nodes; or suspend and resume the job when nodes are free, so that all nodes are requested.",
            Kind.TABLE,
            (
                Query(
                    f"{each_job('finetune_job_nodes', _RUNNING)}"
                    f" / {each_job('finetune_job_nodes', _REQUESTED)} < 1",
                    "share of nodes",
                    "percentunit",
                    0,
                ),
            ),
            width=12,
            columns=("namespace", "finetunejob"),
            empty="No job runs on fewer nodes.",
            links={"finetunejob": JOB_LINK},
        ),
    ),
)

GPUS = Row(
    400,
    "GPUs",
    (
        Panel(
            401,
            "How busy are the GPUs of each job?",
            "Share of time in which the GPUs of a job did any work, on average over the GPUs.",
            "Less than 5 % for a long time is waste: look at the speed of the job, at the store and at the"
            " CPUs.",
            Kind.LINES,
            (
                Query(
                    of_jobs("avg by (namespace, finetunejob)", "DCGM_FI_PROF_GR_ENGINE_ACTIVE", _JOBS),
                    "{{namespace}}/{{finetunejob}}",
                ),
            ),
            unit="percentunit",
            width=12,
            minimum=0,
            maximum=1,
        ),
        Panel(
            402,
            "How much power do jobs draw?",
            "Electric power of all GPUs of a job.",
            "Compare with the power limit of the GPUs; a low power at full activity is a sign of waiting for"
            " memory.",
            Kind.LINES,
            (
                Query(
                    of_jobs("sum by (namespace, finetunejob)", "DCGM_FI_DEV_POWER_USAGE", _JOBS),
                    "{{namespace}}/{{finetunejob}}",
                ),
            ),
            unit="watt",
            width=12,
            minimum=0,
            stacked=True,
        ),
    ),
    needs=exporters.DCGM,
)

BOARD = Dashboard(
    uid="finetune-fleet",
    title="Fine-tuning: fleet",
    about="All FineTuneJobs of the selected namespaces: what runs, how jobs end, and what tuning gained.",
    rows=(NOW, RESULTS, TIME, NODES, GPUS),
    since="now-24h",
    variables=(NAMESPACE,),
)
