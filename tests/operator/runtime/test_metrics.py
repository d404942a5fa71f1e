import re
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from finetune_operator.names import KIND, LABEL_STAGE, LABEL_UID
from finetune_operator.planning.milestones import Milestone
from finetune_operator.runtime import metrics
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.metrics import JobCollector, count_milestones
from finetune_operator.settings import MetricsSettings
from finetune_trainer.contract import Progress, Stage

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def a_job(name: str, status: Any, created: str = "2026-05-01T10:00:00Z", **spec: Any) -> Any:
    meta = {
        "name": name,
        "namespace": "ns",
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "creationTimestamp": created,
    }
    return {"kind": KIND, "metadata": meta, "spec": {"task": "TextGeneration", **spec}, "status": status}


def shown(cache: Cache, progress: Progress | None = None, **settings: Any) -> str:
    registry = CollectorRegistry()
    registry.register(
        JobCollector(
            cache.jobs,
            lambda run: cache.children(run, "Pod"),
            lambda _: progress,
            lambda: NOW,
            MetricsSettings(**settings),
            cache.node_failures.all,
        )
    )
    return generate_latest(registry).decode()


def test_the_newest_progress_has_the_metrics_of_the_trainer() -> None:
    cache = Cache()
    cache.put(a_job("tickets", {"state": "Training", "stage": "Train"}))
    progress = Progress(stage=Stage.TRAIN, attempt=2, step=3, loss=0.25, percent=50)
    labels = 'attempt="2",finetunejob="tickets",namespace="ns",stage="Train"'
    text = shown(cache, progress)
    assert f"finetune_trainer_loss{{{labels}}} 0.25\n" in text
    assert f"finetune_trainer_progress_ratio{{{labels}}} 0.5\n" in text
    assert "finetune_trainer_epoch{" not in text
    assert "finetune_trainer_loss{" not in shown(cache, None)


def test_metrics_of_scraped_pods_are_not_shown_twice() -> None:
    cache = Cache()
    cache.put(a_job("tickets", {"state": "Training", "stage": "Train"}))
    progress = Progress(stage=Stage.TRAIN, attempt=2, step=3)
    assert "finetune_trainer" in shown(cache, progress)
    assert "finetune_trainer" not in shown(cache, progress, scrape_namespaces=("monitoring",))


def test_an_existing_job_has_metrics() -> None:
    cache = Cache()
    job = a_job(
        "tickets",
        {
            "state": "Training",
            "stage": "Train",
            "progress": {"percent": 40},
            "evaluation": {
                "primaryMetric": "macroF1",
                "baseline": {"primary": 0.5},
                "tuned": {"primary": 0.75, "metrics": {"macroF1": {"value": 0.75, "low": 0.7, "high": 0.8}}},
            },
            "attempts": [{"stage": "Train", "outcome": "Running", "runningSince": "2026-05-01T11:00:00Z"}],
        },
        method={"type": "LoRA"},
        resources={"nodes": 2, "gpusPerNode": 8},
    )
    cache.put(job)
    text = shown(cache)
    job_labels = 'finetunejob="tickets"'
    for line in (
        f'finetune_job_info{{{job_labels},method="LoRA",namespace="ns",task="TextGeneration"}} 1.0',
        f'finetune_job_state{{{job_labels},namespace="ns",stage="Train",state="Training"}} 1.0',
        f'finetune_job_progress_ratio{{{job_labels},namespace="ns",stage="Train"}} 0.4',
        f'finetune_job_gpus{{{job_labels},namespace="ns"}} 16.0',
        f'finetune_job_nodes{{{job_labels},kind="requested",namespace="ns"}} 2.0',
        f'finetune_job_nodes{{{job_labels},kind="running",namespace="ns"}} 2.0',
        f'finetune_job_score{{{job_labels},metric="macroF1",model="baseline",namespace="ns"}} 0.5',
        f'finetune_job_score_lower_bound{{{job_labels},metric="macroF1",model="tuned",namespace="ns"}} 0.7',
        f'finetune_job_score_upper_bound{{{job_labels},metric="macroF1",model="tuned",namespace="ns"}} 0.8',
    ):
        assert f"{line}\n" in text
    assert 'finetune_operator_jobs{state="Training"} 1.0' in text
    cache.remove(job)
    text = shown(cache)
    assert "tickets" not in text
    assert 'finetune_operator_jobs{state="Training"} 0.0' in text


def test_a_job_tells_its_gpu_time_by_use() -> None:
    cache = Cache()
    held = {"total": 900, "training": 700, "lost": 0, "waiting": 200}
    cache.put(a_job("tickets", {"state": "Training", "gpuSeconds": held}))
    found = re.findall(r"^finetune_job_gpu_seconds\{(.*)\} (.*)$", shown(cache), flags=re.MULTILINE)
    labels = 'finetunejob="tickets",namespace="ns",use='
    assert found == [
        (f'{labels}"training"', "700.0"),
        (f'{labels}"lost"', "0.0"),
        (f'{labels}"waiting"', "200.0"),
    ]


def test_a_smaller_gang_holds_fewer_gpus() -> None:
    cache = Cache()
    running = {"stage": "Train", "outcome": "Running", "runningSince": "2026-05-01T11:00:00Z", "nodes": 1}
    status = {"state": "Training", "stage": "Train", "attempts": [running]}
    cache.put(a_job("tickets", status, resources={"nodes": 2, "gpusPerNode": 8}))
    text = shown(cache)
    where = 'finetunejob="tickets"'
    assert f'finetune_job_gpus{{{where},namespace="ns"}} 8.0\n' in text
    assert f'finetune_job_requested_gpus{{{where},namespace="ns"}} 16.0\n' in text
    assert f'finetune_job_nodes{{{where},kind="running",namespace="ns"}} 1.0\n' in text


def test_sick_nodes_have_a_bounded_number_of_series() -> None:
    cache = Cache()
    failed = [
        {"generation": 1, "configDigest": "", "specDigest": "", "startTime": NOW.isoformat()}
        | {"stage": "Train", "number": number, "job": f"t{number}", "outcome": "Failed"}
        | {"class": "Hang", "node": f"n{number // 2}", "endTime": NOW.isoformat()}
        for number in range(2, 204)
    ]
    cache.put(a_job("tickets", {"attempts": [*failed, failed[0] | {"number": 300}]}))
    text = shown(cache)
    assert "finetune_operator_sick_nodes 101.0\n" in text
    assert 'finetune_operator_sick_node_failures{node="n1"} 3.0\n' in text
    assert text.count("finetune_operator_sick_node_failures{") == 100


def test_a_job_tells_its_newest_attempts_and_its_demand_for_gpus_until_its_end() -> None:
    cache = Cache()
    attempts = [
        {"stage": "Prepare", "number": 1, "outcome": "Succeeded"},
        {"stage": "Train", "number": 1, "outcome": "Failed"},
        {"stage": "Train", "number": 2, "outcome": "Running"},
    ]
    resources = {"nodes": 2, "gpusPerNode": 4}
    cache.put(a_job("tickets", {"state": "Waiting", "attempts": attempts}, resources=resources))
    text = shown(cache)
    where = 'finetunejob="tickets",namespace="ns"'
    assert f'finetune_job_attempt{{{where},stage="Prepare"}} 1.0\n' in text
    assert f'finetune_job_attempt{{{where},stage="Train"}} 2.0\n' in text
    assert f"finetune_job_requested_gpus{{{where}}} 8.0\n" in text
    assert "finetune_job_gpus{" not in text
    cache = Cache()
    ended = {"state": "Succeeded", "completionTime": "2026-05-01T11:30:00Z", "attempts": attempts}
    cache.put(a_job("tickets", ended, resources=resources))
    assert "finetune_job_requested_gpus{" not in shown(cache)


def test_a_job_tells_its_newest_checkpoint() -> None:
    ended = {"stage": "Train", "number": 1, "outcome": "Failed", "checkpointStep": 80}
    began = "2026-05-01T11:40:00Z"
    running = {"stage": "Train", "number": 2, "outcome": "Running", "runningSince": began}

    def values(attempts: Any, progress: Any = None, **spec: Any) -> dict[str, float]:
        cache = Cache()
        cache.put(a_job("tickets", {"attempts": attempts, "progress": progress or {}}, **spec))
        line = r'^finetune_job_checkpoint_(\w+){finetunejob="tickets",namespace="ns"} (\S+)$'
        return {name: float(value) for name, value in re.findall(line, shown(cache), re.MULTILINE)}

    def at(text: str) -> float:
        return datetime.fromisoformat(text).timestamp()

    saved = "2026-05-01T11:59:00Z"
    newest = {"percent": 40, "checkpointStep": 120, "checkpointTime": saved}
    assert values([ended, running], newest, checkpoints={"everyMinutes": 5}) == {
        "step": 120,
        "timestamp_seconds": at(saved),
        "interval_seconds": 300,
    }
    of_attempt_1 = {"percent": 1, "checkpointStep": 80, "checkpointTime": "2026-05-01T11:30:00Z"}
    assert values([ended, running], of_attempt_1, checkpoints={"everyMinutes": "Auto"}) == {
        "step": 80,
        "timestamp_seconds": at(began),
        "interval_seconds": 3600,
    }
    assert values([running]) == {"timestamp_seconds": at(began), "interval_seconds": 3600}
    assert values([ended], of_attempt_1) == {"step": 80}
    assert values([{**running, "stage": "Publish"}]) == values([]) == {}


def test_a_job_tells_where_its_report_is() -> None:
    cache = Cache()
    cache.put(a_job("tickets", {"state": "Succeeded", "report": "s3://models/tickets/report.html"}))
    where = 'finetunejob="tickets",namespace="ns"'
    line = f'finetune_job_report_info{{{where},uri="s3://models/tickets/report.html"}} 1.0\n'
    assert line in shown(cache)


def test_a_job_tells_the_memory_that_was_estimated() -> None:
    cache = Cache()
    memory = {"process": 21_000_000_000, "train": 19_000_000_000, "publish": 3_700_000_000}
    cache.put(a_job("tickets", {"state": "Training", "memory": memory}))
    text, where = shown(cache), 'finetunejob="tickets",namespace="ns"'
    for scope, size in memory.items():
        line = f'finetune_job_estimated_memory_bytes{{{where},scope="{scope}"}} '
        assert float(text.partition(line)[2].partition("\n")[0]) == size


def test_a_job_without_status_is_pending() -> None:
    cache = Cache()
    cache.put(a_job("new", None))
    assert 'finetune_operator_jobs{state="Pending"} 1.0' in shown(cache)


def test_a_waiting_job_tells_its_reason() -> None:
    cache = Cache()
    conditions = [{"type": "Running", "status": "False", "reason": "Unschedulable"}]
    cache.put(a_job("tickets", {"state": "Waiting", "stage": "Train", "conditions": conditions}))
    text = shown(cache)
    assert 'finetune_job_waiting{finetunejob="tickets",namespace="ns",reason="Unschedulable"} 1.0' in text


def test_pods_on_nodes_can_be_joined_with_their_job() -> None:
    cache = Cache()
    cache.put(a_job("tickets", {"state": "Training", "stage": "Train"}))
    for name, node in (("tickets-t1-0", "gpu-1"), ("tickets-t1-1", None)):
        labels = {LABEL_UID: "uid-tickets", LABEL_STAGE: "Train"}
        meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "labels": labels}
        cache.put({"kind": "Pod", "metadata": meta, "spec": {"nodeName": node} if node else {}})
    (line,) = [line for line in shown(cache).splitlines() if line.startswith("finetune_job_pod_info{")]
    labels = 'finetunejob="tickets",namespace="ns",node="gpu-1",pod="tickets-t1-0",stage="Train"'
    assert line == f"finetune_job_pod_info{{{labels}}} 1.0"


@pytest.mark.parametrize(
    ("settings", "jobs"),
    [
        ({}, {"old", "new", "ended"}),
        ({"max_jobs": 1}, {"new"}),
        ({"finished_seconds": 60}, {"old", "new"}),
        ({"per_job": False}, set()),
    ],
)
def test_series_of_jobs_are_bounded(settings: Any, jobs: set[str]) -> None:
    cache = Cache()
    cache.put(a_job("old", {"state": "Training"}, created="2026-05-01T01:00:00Z"))
    cache.put(a_job("new", None, created="2026-05-01T11:59:00Z"))
    ended = {"state": "Succeeded", "completionTime": "2026-05-01T11:30:00Z"}
    cache.put(a_job("ended", ended, created="2026-05-01T02:00:00Z"))
    text = shown(cache, **settings)
    assert {name for name in ("old", "new", "ended") if f'finetunejob="{name}"' in text} == jobs
    assert f"finetune_operator_jobs_without_series {3 - len(jobs)}.0" in text
    assert 'finetune_operator_jobs{state="Succeeded"} 1.0' in text


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_milestones_are_added_to_counters_and_histograms() -> None:
    gates = ("finetune_gates_total", {"namespace": "ns", "result": "missed"})
    waits = ("finetune_queue_wait_seconds_sum", {"stage": "Train"})
    firsts = ("finetune_time_to_first_step_seconds_count", {})
    before = [sample(name, **labels) for name, labels in (gates, waits, firsts)]
    count_milestones(
        [
            Milestone("finetune_gates", gates[1]),
            Milestone("finetune_queue_wait_seconds", waits[1], 12.5),
            Milestone("finetune_time_to_first_step_seconds", value=90.0),
        ]
    )
    after = [sample(name, **labels) for name, labels in (gates, waits, firsts)]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1.0, 12.5, 1.0]


def test_reasons_of_other_programs_do_not_make_series_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_known_reasons", set())
    monkeypatch.setattr(metrics, "_MAX_REASONS", 2)
    labels = {"namespace": "bounded", "task": "TextGeneration", "method": "Full", "outcome": "Failed"}
    for reason in ("A", "B", "C", "D", "A"):
        count_milestones([Milestone("finetune_jobs_finished", {**labels, "reason": reason})])
    counted = {
        reason: sample("finetune_jobs_finished_total", **labels, reason=reason)
        for reason in ("A", "B", "C", "Other")
    }
    assert counted == {"A": 2.0, "B": 1.0, "C": 0.0, "Other": 2.0}
