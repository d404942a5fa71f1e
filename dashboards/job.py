"""The dashboard of one job: its state, its learning, its speed, its pods and its result."""

from dashboards import exporters
from dashboards.model import Annotation, Dashboard, Kind, Panel, Query, Row, Variable
from dashboards.promql import of_jobs, or_named, or_zero, state_code
from dashboards.states import STATE_VALUES

_JOB = 'namespace="$namespace",finetunejob="$job"'
_VARIABLES = (
    Variable("namespace", "Namespace", "label_values(finetune_job_info, namespace)"),
    Variable("job", "FineTuneJob", 'label_values(finetune_job_info{namespace="$namespace"}, finetunejob)'),
)


def _trainer(gauge: str, by: str = "attempt") -> str:
    """A gauge of the trainer in Train, by attempt: the pods of two attempts may overlap in the metrics."""
    return f'max by ({by}) (finetune_trainer_{gauge}{{{_JOB},stage="Train"}})'


def _newest(gauge: str) -> str:
    return f"max by (stage) (finetune_trainer_{gauge}{{{_JOB}}})"


STATE = Row(
    100,
    "State",
    (
        Panel(
            101,
            "What does the job do?",
            "The state of the FineTuneJob, as `kubectl get finetunejob` shows the state.",
            "`kubectl describe finetunejob` has the cause and the remedy in status.message.",
            Kind.STAT,
            (Query(state_code(_JOB)),),
            width=4,
            height=4,
            values=STATE_VALUES,
            empty="no series: the job ended earlier, or metrics.perJob is off",
        ),
        Panel(
            102,
            "Why does the job wait?",
            "The reason while the job waits. docs/reasons.md explains each reason and its remedy.",
            "Queued is normal while other jobs hold the quota. For other reasons, follow status.message.",
            Kind.STAT,
            (
                Query(
                    or_named(
                        f"max by (reason) (finetune_job_waiting{{{_JOB}}})", {"reason": "does not wait"}
                    ),
                    "{{reason}}",
                ),
            ),
            width=4,
            height=4,
            names=True,
            steps=((1, "orange"),),
            alerts=("FineTuneJobWaits",),
        ),
        Panel(
            103,
            "How far is the stage?",
            "Share of the current stage that is done.",
            "A share that does not grow for many minutes: look at the heartbeat and at the log of the pod.",
            Kind.STAT,
            (Query(f"max by (stage) (finetune_job_progress_ratio{{{_JOB}}})", "{{stage}}"),),
            unit="percentunit",
            width=4,
            height=4,
            minimum=0,
            decimals=0,
            empty="no stage runs",
        ),
        Panel(
            104,
            "How long to the end?",
            "Estimated time to the end of the stage, from the speed so far. The trainer estimates in Train"
            " only.",
            "A growing estimate means a falling speed: look at the panels of the speed.",
            Kind.STAT,
            (Query(_newest("eta_seconds"), "{{stage}}"),),
            unit="s",
            width=4,
            height=4,
            decimals=0,
            empty="no estimate now",
        ),
        Panel(
            105,
            "How many attempts?",
            "Number of the newest attempt of each stage. Each failure that may pass starts a new attempt.",
            "More than one attempt: status.attempts names the class, the pod and the node of each failure.",
            Kind.STAT,
            (Query(f"max by (stage) (finetune_job_attempt{{{_JOB}}})", "{{stage}}"),),
            width=4,
            height=4,
            decimals=0,
            steps=((2, "orange"),),
            empty="no attempt yet",
        ),
        Panel(
            106,
            "Is the process alive?",
            "Time since the last heartbeat of rank 0. Each step of the work sends a heartbeat.",
            "The supervisor ends a silent process after spec.failurePolicy.hangTimeout, or else"
            " settings.deadlines.hang (600 seconds). Beyond that time, look at the log of the pod and at the"
            " clock of the node.",
            Kind.STAT,
            (
                Query(
                    f"min by (stage) (time() - finetune_trainer_heartbeat_timestamp_seconds{{{_JOB}}})",
                    "{{stage}}",
                ),
            ),
            unit="s",
            width=4,
            height=4,
            decimals=0,
            steps=((300, "orange"), (1200, "red")),
            empty="no pod runs",
            alerts=("FineTuneHeartbeatStale",),
        ),
        Panel(
            107,
            "In which states was the job?",
            "The state of the FineTuneJob over time.",
            "Long bands of Waiting: compare with the panel of the reason, and with the dashboard about"
            " capacity.",
            Kind.STATES,
            (Query(state_code(_JOB), "state"),),
            width=16,
            height=4,
            values=STATE_VALUES,
        ),
        Panel(
            108,
            "How many GPUs does the job hold?",
            "GPUs of the running Train attempt, and GPUs that the Train pods request. Jobs on CPUs need"
            " none.",
            "A request that stays above the held GPUs: the job waits for its pods.",
            Kind.STAT,
            (
                Query(or_zero(f"max(finetune_job_gpus{{{_JOB}}})"), "held"),
                Query(or_zero(f"max(finetune_job_requested_gpus{{{_JOB}}})"), "requested"),
            ),
            width=8,
            height=4,
            decimals=0,
        ),
    ),
)

LEARNING = Row(
    200,
    "Learning",
    (
        Panel(
            201,
            "Does the loss fall?",
            "Training loss of the last step, by attempt. A vertical mark is the begin of a new attempt.",
            "A flat loss: raise the learning rate or look at the data. A rising or jumping loss: lower the"
            " learning rate.",
            Kind.LINES,
            (Query(_trainer("loss"), "attempt {{attempt}}"),),
            unit="none",
            width=12,
        ),
        Panel(
            202,
            "Does the model improve on rows that it does not train on?",
            "Primary metric on the validation rows, newest value. The best checkpoint has the best value.",
            "A value that worsens while the loss falls is overfitting: train fewer epochs, or add data.",
            Kind.LINES,
            (Query(_trainer("validation_score"), "attempt {{attempt}}"),),
            unit="none",
            width=12,
        ),
        Panel(
            203,
            "Are the gradients stable?",
            "Norm of all gradients before clipping, on a logarithmic scale.",
            "Peaks of ten times the usual norm announce a divergence: lower the learning rate, or look at"
            " the rows.",
            Kind.LINES,
            (Query(_trainer("gradient_norm"), "attempt {{attempt}}"),),
            unit="none",
            logarithmic=True,
        ),
        Panel(
            204,
            "Does the learning rate follow its schedule?",
            "Learning rate of the last step: a warm-up, then a decay towards zero.",
            "After a restart, the learning rate continues from the checkpoint. A jump to the start means"
            " that the attempt"
            " found no checkpoint.",
            Kind.LINES,
            (Query(_trainer("learning_rate"), "attempt {{attempt}}"),),
            unit="sci",
            minimum=0,
        ),
        Panel(
            205,
            "How many steps are done?",
            "Optimizer steps done, and optimizer steps of the whole run.",
            "A new attempt that begins far below the end of the last attempt lost work: write checkpoints"
            " more often.",
            Kind.LINES,
            (
                Query(_trainer("step"), "done, attempt {{attempt}}"),
                Query(f'max(finetune_trainer_planned_steps{{{_JOB},stage="Train"}})', "planned"),
            ),
            minimum=0,
            colors={"planned": "text"},
        ),
    ),
)

CHECKPOINTS = Row(
    700,
    "Checkpoints",
    (
        Panel(
            701,
            "How old is the newest checkpoint?",
            "Time since the newest complete checkpoint, or since the start of the running attempt of Train.",
            "A saw-tooth is normal. A line that only rises: no checkpoint can be stored. Look at the log of"
            " the pod with index 0.",
            Kind.LINES,
            (Query(f"time() - max(finetune_job_checkpoint_timestamp_seconds{{{_JOB}}})", "age"),),
            unit="s",
            width=12,
            minimum=0,
            alerts=("FineTuneJobCheckpointTooOld",),
        ),
        Panel(
            702,
            "How many steps would a failure lose?",
            "Optimizer steps since the newest complete checkpoint, which the next attempt would repeat.",
            "Too many: lower spec.checkpoints.everyMinutes, which takes effect with the next attempt.",
            Kind.LINES,
            (
                Query(
                    f'clamp_min(max(finetune_trainer_step{{{_JOB},stage="Train"}})'
                    f" - ({or_zero(f'max(finetune_job_checkpoint_step{{{_JOB}}})')}), 0)",
                    "steps",
                ),
            ),
            width=12,
            minimum=0,
            decimals=0,
        ),
    ),
)

GPU_TIME = Row(
    800,
    "GPU time",
    (
        Panel(
            801,
            "What did the GPUs of the job do?",
            "Time for which the pods of Train held GPUs, in seconds x GPUs, by use. Lost: steps that the next"
            " attempt repeats. Waiting: held GPUs without work, such as pods that wait for their gang.",
            "Much lost time: lower spec.checkpoints.everyMinutes. Much waiting or startup time: look at the"
            " causes of the restarts in status.attempts.",
            Kind.BARS,
            (
                Query(
                    or_named(f"max by (use) (finetune_job_gpu_seconds{{{_JOB}}})", {"use": "no GPUs"}),
                    "{{use}}",
                ),
            ),
            unit="s",
            width=12,
            decimals=1,
        ),
        Panel(
            802,
            "Which share of the GPU time trained the model?",
            "Share of the uses training and lost in the time for which the pods of Train held GPUs.",
            "A small share of training: compare the other uses beside this panel.",
            Kind.LINES,
            tuple(
                Query(
                    f'sum(max by (use) (finetune_job_gpu_seconds{{{_JOB},use="{use}"}}))'
                    f" / clamp_min(sum(max by (use) (finetune_job_gpu_seconds{{{_JOB}}})), 1)",
                    use,
                )
                for use in ("training", "lost")
            ),
            unit="percentunit",
            width=12,
            minimum=0,
            maximum=1,
            decimals=0,
            colors={"lost": "red"},
        ),
    ),
)

SPEED = Row(
    300,
    "Speed and memory",
    (
        Panel(
            301,
            "How many tokens does the job train in a second?",
            "Throughput of all processes together, in tokens.",
            "A falling speed: look at the store, at the CPUs and at slow nodes. Compare with earlier runs of"
            " the model.",
            Kind.LINES,
            (Query(_trainer("tokens_per_second"), "attempt {{attempt}}"),),
            unit="tokens/s",
            minimum=0,
        ),
        Panel(
            302,
            "How many rows does the job train in a second?",
            "Throughput of all processes together, in rows.",
            "Rows of different length make this value vary; the tokens beside this panel vary less.",
            Kind.LINES,
            (Query(_trainer("samples_per_second"), "attempt {{attempt}}"),),
            unit="rows/s",
            minimum=0,
        ),
        Panel(
            303,
            "How much memory does rank 0 need?",
            "Greatest memory of rank 0 so far (memory of the GPU, or memory of the host on CPUs), and the"
            " estimate of Prepare.",
            "Near the limit, an attempt may fail with OutOfMemory: lower the micro-batch or maxLength.",
            Kind.LINES,
            (
                Query(_trainer("peak_memory_bytes"), "attempt {{attempt}}"),
                Query(f'max(finetune_job_estimated_memory_bytes{{{_JOB},scope="process"}})', "estimate"),
            ),
            unit="bytes",
            minimum=0,
        ),
        Panel(
            306,
            "How much of the peak of its GPUs does the job use?",
            "Model FLOPs utilisation (MFU): floating-point operations that the model needs for the trained"
            " tokens, divided by the bfloat16 peak of the GPUs. No data: CPUs, float32, or an unknown GPU.",
            "Large models reach 0.3 to 0.5. Below: raise the micro-batch, leave out offload and activation"
            " checkpointing where memory permits, and look at the network of the nodes.",
            Kind.LINES,
            (Query(_trainer("mfu_ratio"), "attempt {{attempt}}"),),
            unit="percentunit",
            minimum=0,
            maximum=1,
        ),
        Panel(
            307,
            "Is one process slower than the others?",
            "Duration of a matrix product on the slowest process, divided by the median of all processes."
            " Train compares the processes before its first step, and with its checkpoints.",
            "From 1.5: all processes wait for this process in each step. status.progress.slowRank names the"
            " node: look at its temperature, clock and other work.",
            Kind.LINES,
            (Query(_trainer("slowest_rank_slowdown"), "attempt {{attempt}}"),),
            unit="none",
            minimum=0,
            alerts=("FineTuneSlowRank",),
        ),
        Panel(
            309,
            "Which process is the slowest?",
            "Rank of the process whose matrix product took longest in the newest comparison.",
            "The rank changes if the processes are equally fast. A rank that stays, with a high value beside"
            " this panel: look at the node of the rank.",
            Kind.LINES,
            (Query(_trainer("slowest_rank"), "attempt {{attempt}}"),),
            minimum=0,
            decimals=0,
        ),
        Panel(
            308,
            "How fast is the network between the processes?",
            "Bytes that each process sends in a second in an all-reduce, in the newest comparison of the"
            " processes.",
            "Compare with the bandwidth of the network of the nodes. Much less: look at NCCL in the log of"
            " the pods, and at the fabric settings of the profile.",
            Kind.LINES,
            (Query(_trainer("all_reduce_bytes_per_second"), "attempt {{attempt}}"),),
            unit="Bps",
            minimum=0,
        ),
        Panel(
            304,
            "How much data has Prepare read?",
            "Rows that Prepare has read, tokenised or stored, and tokens of the tokenised rows, on a"
            " logarithmic scale.",
            "Prepare runs on CPUs. A slow rise: look at the store, and at spec.resources of the job.",
            Kind.LINES,
            (
                Query(f"max(finetune_trainer_rows{{{_JOB}}})", "rows"),
                Query(f"max(finetune_trainer_tokens{{{_JOB}}})", "tokens"),
            ),
            minimum=1,
            logarithmic=True,
        ),
        Panel(
            305,
            "How often has the job seen its data?",
            "Passes over the training rows, with a fractional part.",
            "Compare with spec.training.epochs.",
            Kind.LINES,
            (Query(_trainer("epoch"), "attempt {{attempt}}"),),
            unit="none",
            minimum=0,
        ),
    ),
)

RESULT = Row(
    400,
    "Result and pods",
    (
        Panel(
            401,
            "Is the tuned model better than the base model?",
            "Scores on the same test rows with 95 % intervals. The row delta is tuned minus baseline: an"
            " interval without"
            " zero means a real difference. For a loss, a negative delta is an improvement.",
            "No real difference: look at the report, which has the rows that changed, and at the data.",
            Kind.TABLE,
            tuple(
                Query(
                    f"max by (model, metric) (last_over_time({gauge}{{{_JOB}}}[$__range]))", title, "none", 4
                )
                for gauge, title in (
                    ("finetune_job_score", "score"),
                    ("finetune_job_score_lower_bound", "lower bound"),
                    ("finetune_job_score_upper_bound", "upper bound"),
                )
            ),
            width=12,
            height=6,
            columns=("model", "metric"),
            empty="The job has not been evaluated yet.",
        ),
        Panel(
            402,
            "Where is the report?",
            "Address of the report in S3, beside the published model: one HTML page. The report quotes test"
            " rows.",
            "No address: the job has not published yet, or the gate was not met.",
            Kind.TABLE,
            (Query(f"max by (uri) (last_over_time(finetune_job_report_info{{{_JOB}}}[$__range]))"),),
            width=12,
            height=6,
            columns=("uri",),
            empty="The job has no report yet.",
        ),
        Panel(
            403,
            "Where do the pods run?",
            "Pods of the job in the time range, with their stage and node.",
            "Failures that begin on one node: see the sick nodes on the dashboard about capacity.",
            Kind.TABLE,
            (
                Query(
                    f"max by (stage, pod, node) (last_over_time(finetune_job_pod_info{{{_JOB}}}[$__range]))"
                ),
            ),
            width=24,
            height=6,
            columns=("stage", "pod", "node"),
            empty="No pod of the job has a node.",
        ),
    ),
)


def _gpu(metric: str) -> Query:
    return Query(of_jobs("max by (pod, gpu)", metric, _JOB), "{{pod}}, GPU {{gpu}}")


GPUS = Row(
    500,
    "GPUs",
    (
        Panel(
            501,
            "Do the GPUs work?",
            "Share of time in which a GPU did any work.",
            "Less than 5 % for a long time is waste: look at the store, at the CPUs and at long evaluations.",
            Kind.LINES,
            (_gpu("DCGM_FI_PROF_GR_ENGINE_ACTIVE"),),
            unit="percentunit",
            minimum=0,
            maximum=1,
            alerts=("FineTuneGpusIdle",),
        ),
        Panel(
            502,
            "Do the tensor cores work?",
            "Share of time in which the tensor cores of a GPU worked. 30 to 60 % are usual for transformers.",
            "Low values with a busy GPU: use a larger micro-batch, or BFloat16 in spec.training.precision.",
            Kind.LINES,
            (_gpu("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"),),
            unit="percentunit",
            minimum=0,
            maximum=1,
        ),
        Panel(
            503,
            "How full is the memory of the GPUs?",
            "Used memory of each GPU.",
            "A full GPU fails with OutOfMemory; half-empty GPUs allow a larger micro-batch.",
            Kind.LINES,
            (_gpu("DCGM_FI_DEV_FB_USED"),),
            unit="mbytes",
            minimum=0,
        ),
        Panel(
            504,
            "How much power do the GPUs draw?",
            "Electric power of each GPU.",
            "One GPU with much less power than the others waits for the others, or is slowed down by heat.",
            Kind.LINES,
            (_gpu("DCGM_FI_DEV_POWER_USAGE"),),
            unit="watt",
            minimum=0,
        ),
        Panel(
            505,
            "How hot are the GPUs?",
            "Temperature of each GPU.",
            "Above about 85 degrees, GPUs slow down: look at the cooling of the node.",
            Kind.LINES,
            (_gpu("DCGM_FI_DEV_GPU_TEMP"),),
            unit="celsius",
            steps=((85, "red"),),
        ),
        Panel(
            506,
            "Did a GPU report an error?",
            "Code of the last Xid error of each GPU; 0 means no error. NVIDIA documents the codes.",
            "Cordon the node and test the GPU if the code names a fault of the hardware.",
            Kind.BARS,
            (_gpu("DCGM_FI_DEV_XID_ERRORS"),),
            unit="none",
            decimals=0,
            steps=((1, "red"),),
        ),
    ),
    needs=exporters.DCGM,
)

_USED = 'max by (namespace, pod) (container_memory_working_set_bytes{container="trainer"})'
_LIMIT = 'max by (namespace, pod) (kube_pod_container_resource_limits{container="trainer",resource="memory"})'

HOST = Row(
    600,
    "Memory of the pods",
    (
        Panel(
            601,
            "How near are the pods to their memory limit?",
            "Memory of the container of the trainer, as a share of its limit.",
            "At the limit, the kernel kills the process: raise spec.resources.memory of the next job.",
            Kind.LINES,
            (
                Query(
                    of_jobs("max by (pod)", f"({_USED} / on (namespace, pod) {_LIMIT})", _JOB),
                    "{{pod}}",
                ),
            ),
            unit="percentunit",
            width=24,
            minimum=0,
            maximum=1,
            steps=((0.95, "red"),),
            alerts=("FineTuneMemoryNearLimit",),
        ),
    ),
    needs=exporters.CONTAINERS,
)

BOARD = Dashboard(
    uid="finetune-job",
    title="Fine-tuning: job",
    about="One FineTuneJob: its state, its learning, its speed, its pods and its result.",
    rows=(STATE, LEARNING, CHECKPOINTS, GPU_TIME, SPEED, RESULT, GPUS, HOST),
    variables=_VARIABLES,
    annotations=(
        Annotation(
            "New attempts",
            f"sum by (stage) (changes(finetune_job_attempt{{{_JOB}}}[2m])) > 0",
            "A new attempt of {{stage}} began.",
            "orange",
        ),
    ),
)
