"""Alerts by promtool: each alert stays quiet, fires and resolves, and has a runbook."""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.promql import events
from tests.monitoring.prometheus import program

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts/finetune-operator/files/alerts.yaml"
RUNBOOKS = ROOT / "docs/runbooks.md"
GONE = ["stale", *["_"] * 30]
JOB = 'namespace="a",finetunejob="x"'
POD_INFO = f'finetune_job_pod_info{{{JOB},stage="Train",pod="x-t1-0",node="n1"}}'


@dataclass(frozen=True)
class Case:
    """What an alert does, minute by minute."""

    alert: str
    labels: dict[str, str]
    """Labels of the alert beside its severity."""
    series: dict[str, list[Any]]
    """Values of each series, one for each interval."""
    quiet: int
    fires: int
    resolved: int
    """Minutes at which the alert has not fired, fires, and has ended."""
    severity: str = "warning"
    minutes: int = field(default=1, kw_only=True)
    """The interval."""


def attempts(stage: str, kind: str, node: str = "") -> str:
    return f'finetune_attempts_total{{stage="{stage}",outcome="Failed",class="{kind}",node="{node}"}}'


def checkpoints(interval: int, times: list[int]) -> dict[str, list[Any]]:
    """A job that trains a step each minute.

    Args:
        interval: longest time between two checkpoints in seconds.
        times: time of the newest checkpoint, minute by minute.
    """
    return {
        f"finetune_job_checkpoint_timestamp_seconds{{{JOB}}}": list(times),
        f"finetune_job_checkpoint_interval_seconds{{{JOB}}}": [interval] * len(times),
        f'finetune_trainer_step{{{JOB},attempt="1",stage="Train"}}': [*range(len(times))],
    }


CASES = [
    Case(
        "FineTuneOperatorNoLeader",
        {},
        {'finetune_operator_leader{pod="p"}': [1] * 11 + [0] * 20 + [1] * 15},
        10,
        20,
        40,
        severity="critical",
    ),
    Case(
        "FineTuneOperatorResyncStale",
        {"namespace": "a"},
        {'finetune_operator_last_resync_timestamp_seconds{namespace="a"}': [0] * 50 + [3000] * 20},
        20,
        45,
        60,
    ),
    Case(
        "FineTuneScopeUnhealthy",
        {"namespace": "a"},
        {'finetune_operator_scope_healthy{namespace="a"}': [1] * 10 + [0] * 20 + [1] * 10},
        5,
        25,
        35,
    ),
    Case(
        "FineTuneReconcileErrors",
        {},
        {'finetune_operator_reconciles_total{result="error"}': [*[0] * 10, *range(1, 31), *[30] * 40]},
        5,
        35,
        70,
    ),
    Case(
        "FineTuneCleanupFailed",
        {"namespace": "a", "prefix": "s3://b/r/"},
        {'finetune_operator_cleanup_failed{namespace="a",prefix="s3://b/r/"}': [1] * 150 + GONE},
        60,
        140,
        165,
    ),
    *(
        Case(
            f"FineTune{name.capitalize()}Ends",
            {"instance": "i"},
            {
                f'finetune_operator_{name}_start_timestamp_seconds{{instance="i"}}': [0] * 60 + [3600] * 10,
                f'finetune_operator_{name}_end_timestamp_seconds{{instance="i"}}': [3600] * 60 + [7200] * 10,
            },
            50,
            57,
            62,
        )
        for name in ("certificate", "token")
    ),
    Case(
        "FineTuneNotificationsFailing",
        {"target": "crm"},
        {
            'finetune_operator_notifications_oldest_pending_seconds{target="crm"}': [
                *[0] * 10,
                *range(60, 1860, 60),
                *[0] * 20,
            ]
        },
        24,
        35,
        45,
    ),
    Case(
        "FineTuneNotificationsFailing",
        {"target": "crm"},
        {
            'finetune_operator_notifications_total{target="crm",result="failed"}': [*[0] * 10, *[1] * 80],
            'finetune_operator_notifications_total{target="crm",result="retried"}': [*range(90)],
        },
        9,
        30,
        85,
    ),
    Case(
        "FineTuneJobWaits",
        {"namespace": "a", "finetunejob": "x", "reason": "Unschedulable"},
        {f'finetune_job_waiting{{{JOB},reason="Unschedulable"}}': [1] * 80 + GONE},
        30,
        70,
        90,
    ),
    Case(
        "FineTuneSlowRank",
        {"namespace": "a", "finetunejob": "x"},
        {
            f'finetune_trainer_slowest_rank_slowdown{{{JOB},attempt="1",stage="Train"}}': [2] * 100
            + [1.4] * 20
        },
        30,
        70,
        110,
    ),
    Case(
        "FineTuneHeartbeatStale",
        {"namespace": "a", "finetunejob": "x", "stage": "Train"},
        {
            f'finetune_trainer_heartbeat_timestamp_seconds{{{JOB},attempt="1",stage="Train"}}': [0] * 40
            + [2400] * 20
        },
        15,
        30,
        45,
    ),
    Case(
        "FineTuneJobCheckpointTooOld",
        {"namespace": "a", "finetunejob": "x"},
        checkpoints(300, [0] * 160 + [9600] * 40),
        120,
        150,
        165,
    ),
    Case(
        "FineTuneJobCheckpointTooOld",
        {"namespace": "a", "finetunejob": "x"},
        checkpoints(4 * 3600, [0] * 560 + [33600] * 40),
        470,
        510,
        565,
    ),
    Case(
        "FineTuneLossNotFinite",
        {"stage": "Train"},
        {attempts("Train", "Numerical"): ["_"] * 10 + [1] * 100},
        5,
        20,
        90,
    ),
    Case(
        "FineTuneAttemptsFail",
        {"stage": "Train", "class": "Hang"},
        {attempts("Train", "Hang", "n1"): [*["_"] * 5, 1, 1, 2, 2, 3, 3, *[4] * 100]},
        8,
        20,
        95,
    ),
    Case(
        "FineTuneNodeSuspicious",
        {"node": "n1"},
        {attempts("Train", "Hang", "n1"): [*["_"] * 4, 1, 2, *[3] * 400]},
        20,
        60,
        1600,
        minutes=5,
    ),
    Case(
        "FineTuneNodeSuspicious",
        {"node": "n2"},
        {'finetune_operator_sick_node_failures{node="n2"}': [*["_"] * 20, *[2] * 60, *["_"] * 20]},
        10,
        30,
        95,
    ),
    Case(
        "FineTuneGpusIdle",
        {"namespace": "a", "finetunejob": "x"},
        {
            f"finetune_job_gpus{{{JOB}}}": [8] * 170,
            POD_INFO: [1] * 170,
            'DCGM_FI_PROF_GR_ENGINE_ACTIVE{namespace="a",pod="x-t1-0",gpu="0"}': [0.9] * 40
            + [0.01] * 80
            + [0.9] * 50,
        },
        30,
        110,
        150,
    ),
    Case(
        "FineTuneMemoryNearLimit",
        {"namespace": "a", "pod": "x-t1-0", "finetunejob": "x"},
        {
            'container_memory_working_set_bytes{namespace="a",pod="x-t1-0",container="trainer"}': [50] * 10
            + [97] * 20
            + [50] * 10,
            'kube_pod_container_resource_limits{namespace="a",pod="x-t1-0",container="trainer",'
            'resource="memory"}': [100] * 40,
            POD_INFO: [1] * 40,
        },
        5,
        20,
        35,
    ),
]


@pytest.fixture(scope="module")
def promtool() -> Path:
    return program("promtool")


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def check(promtool: Path, folder: Path, tests: list[dict[str, Any]]) -> None:
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def inputs(series: dict[str, list[Any]]) -> list[dict[str, str]]:
    return [{"series": name, "values": " ".join(map(str, values))} for name, values in series.items()]


def test_the_rules_are_valid(promtool: Path) -> None:
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    assert sorted({case.alert for case in CASES}) == sorted(rule["alert"] for rule in alerts())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_stays_quiet_fires_and_resolves(promtool: Path, tmp_path: Path, case: Case) -> None:
    labels = {"alertname": case.alert, "alertstate": "firing", "severity": case.severity, **case.labels}
    firing = "ALERTS{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
    expected = [(case.quiet, []), (case.fires, [{"labels": firing, "value": 1}]), (case.resolved, [])]
    test = {
        "interval": f"{case.minutes}m",
        "input_series": inputs(case.series),
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}',
                "eval_time": f"{minute}m",
                "exp_samples": samples,
            }
            for minute, samples in expected
        ],
    }
    check(promtool, tmp_path, [test])


def test_metrics_without_tls_have_no_certificate_that_ends(promtool: Path, tmp_path: Path) -> None:
    names = ("certificate_start", "certificate_end", "token_start", "token_end")
    series = {f'finetune_operator_{name}_timestamp_seconds{{instance="i"}}': [0] * 60 for name in names}
    fired = 'ALERTS{alertname=~"FineTune(Certificate|Token)Ends"}'
    expected = {"expr": fired, "eval_time": "50m", "exp_samples": []}
    check(
        promtool,
        tmp_path,
        [{"interval": "1m", "input_series": inputs(series), "promql_expr_test": [expected]}],
    )


def test_no_checkpoint_is_too_old_while_train_measures_a_model(promtool: Path, tmp_path: Path) -> None:
    series = {
        name: [60] * 200 if "step" in name else values for name, values in checkpoints(300, [0] * 200).items()
    }
    fired = 'ALERTS{alertname="FineTuneJobCheckpointTooOld"}'
    expected = {"expr": fired, "eval_time": "190m", "exp_samples": []}
    check(
        promtool,
        tmp_path,
        [{"interval": "1m", "input_series": inputs(series), "promql_expr_test": [expected]}],
    )


def test_a_long_measurement_before_the_first_step_is_no_old_checkpoint(
    promtool: Path, tmp_path: Path
) -> None:
    """The steps begin after two hours, and the first checkpoint is due an hour later."""
    steps = [*["_"] * 125, *range(60)]
    series = {
        name: steps if "step" in name else values for name, values in checkpoints(3600, [0] * 185).items()
    }
    fired = 'ALERTS{alertname="FineTuneJobCheckpointTooOld"}'
    expected = {"expr": fired, "eval_time": "180m", "exp_samples": []}
    check(
        promtool,
        tmp_path,
        [{"interval": "1m", "input_series": inputs(series), "promql_expr_test": [expected]}],
    )


def test_no_leader_at_all_fires_and_a_queue_does_not(promtool: Path, tmp_path: Path) -> None:
    queued = {f'finetune_job_waiting{{{JOB},reason="Queued"}}': [1] * 200}
    test = {
        "interval": "1m",
        "input_series": inputs(queued),
        "promql_expr_test": [
            {
                "expr": 'ALERTS{alertstate="firing"}',
                "eval_time": "180m",
                "exp_samples": [
                    {
                        "labels": 'ALERTS{alertname="FineTuneOperatorNoLeader",alertstate="firing",'
                        'severity="critical"}',
                        "value": 1,
                    }
                ],
            }
        ],
    }
    check(promtool, tmp_path, [test])


def test_three_failed_attempts_do_not_fire_and_a_fourth_attempt_does(promtool: Path, tmp_path: Path) -> None:
    failures = {attempts("Train", "Hang", "n1"): [*["_"] * 5, 1, *[2] * 10, *[3] * 20, *[4] * 20]}
    count = 'stage_class_node:finetune_attempts:increase1h{stage="Train"}'
    named = '{stage="Train",outcome="Failed",class="Hang",node="n1"}'
    fired = 'ALERTS{alertname="FineTuneAttemptsFail"}'
    labels = 'alertstate="firing",severity="warning",stage="Train",class="Hang"'
    firing = f'ALERTS{{alertname="FineTuneAttemptsFail",{labels}}}'
    record = f"stage_class_node:finetune_attempts:increase1h{named}"
    test = {
        "interval": "1m",
        "input_series": inputs(failures),
        "promql_expr_test": [
            {"expr": count, "eval_time": "30m", "exp_samples": [{"labels": record, "value": 3}]},
            {"expr": fired, "eval_time": "30m", "exp_samples": []},
            {"expr": fired, "eval_time": "45m", "exp_samples": [{"labels": firing, "value": 1}]},
        ],
    }
    check(promtool, tmp_path, [test])


def test_the_counting_of_rules_is_that_of_the_dashboards() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    records = {rule["record"]: re.sub(r"\s", "", rule["expr"]) for rule in groups[0]["rules"]}
    by = "stage, outcome, class, node"
    for window in ("1h", "1d"):
        counted = events("finetune_attempts_total", by, window=window)
        assert records[f"stage_class_node:finetune_attempts:increase{window}"] == re.sub(r"\s", "", counted)
    held = events("finetune_gpu_seconds_total", "namespace, use", window="1d")
    assert records["namespace:finetune_gpu_seconds:rate1d"] == re.sub(r"\s", "", f"{held}/86400")


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_has_severity_summary_and_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"].endswith(".")
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "RUNBOOKS"
    sections = re.split(r"^## ", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    (section,) = [text for text in sections if text.splitlines()[0].lower() == anchor]
    assert section.startswith(rule["alert"])
    for part in ("**Meaning.**", "**Look at.**", "**Do.**", "**Silence.**"):
        assert part in section
