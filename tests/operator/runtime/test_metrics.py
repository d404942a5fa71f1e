from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from finetune_operator.names import KIND
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.metrics import JobCollector


def a_job(name: str, status: Any) -> Any:
    meta = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": "1"}
    return {"kind": KIND, "metadata": meta, "status": status}


def shown(cache: Cache) -> str:
    registry = CollectorRegistry()
    registry.register(JobCollector(cache.jobs))
    return generate_latest(registry).decode()


def test_an_existing_job_has_metrics() -> None:
    cache = Cache()
    job = a_job(
        "tickets",
        {
            "state": "Training",
            "stage": "Train",
            "progress": {"percent": 40},
            "evaluation": {"primaryMetric": "macroF1", "baseline": {"primary": 0.5}},
        },
    )
    cache.put(job)
    text = shown(cache)
    assert 'finetune_job_info{name="tickets",namespace="ns",stage="Train",state="Training"} 1.0' in text
    assert 'finetune_job_progress_percent{name="tickets",namespace="ns",stage="Train"} 40.0' in text
    assert 'finetune_job_score{metric="macroF1",model="baseline",name="tickets",namespace="ns"} 0.5' in text
    assert 'finetune_operator_jobs{state="Training"} 1.0' in text
    cache.remove(job)
    text = shown(cache)
    assert "tickets" not in text
    assert 'finetune_operator_jobs{state="Training"} 0.0' in text


def test_a_job_without_status_is_pending() -> None:
    cache = Cache()
    cache.put(a_job("new", None))
    assert 'finetune_operator_jobs{state="Pending"} 1.0' in shown(cache)
