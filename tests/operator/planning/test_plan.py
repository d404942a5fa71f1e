"""Golden cases: golden/<what it shows>/{job,observed,plan}.yaml, written in the words of scenes.py.

`FINETUNE_REGENERATE=1 pytest tests/operator/test_plan.py` writes each plan.yaml anew. Read what it wrote.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api import AttemptStatus
from finetune_operator.objects import Manifest
from finetune_operator.planning.cleanup import plan_cleanup
from finetune_operator.planning.plan import plan
from finetune_operator.planning.types import Plan
from finetune_operator.rendering.jobs import config_of
from tests.operator import scenes

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(p.name for p in GOLDEN.iterdir() if p.is_dir())


@pytest.mark.parametrize("case", CASES)
def test_golden_case(case: str) -> None:
    folder = GOLDEN / case
    made = shown(planned(folder))
    expected = folder / "plan.yaml"
    if os.environ.get("FINETUNE_REGENERATE"):
        expected.write_text(yaml.dump(made, Dumper=Readable, sort_keys=False, width=105, allow_unicode=True))
    assert made == scenes.read(expected)


@pytest.mark.parametrize("case", CASES)
def test_planning_again_with_the_status_written_decides_the_same(case: str) -> None:
    folder = GOLDEN / case
    short = scenes.read(folder / "observed.yaml")
    configured = scenes.settings(short.get("settings"))
    job = scenes.job_of(scenes.read(folder / "job.yaml"), configured=configured)
    now = datetime.fromisoformat(short.get("now", scenes.NOW.isoformat()))
    observed = scenes.observed_of(job, short, configured)

    first = plan(job, observed, configured, now)
    assert plan(job, observed, configured, now) == first

    again = plan(job.model_copy(update={"status": first.status}), observed, configured, now)
    assert {r.name for r in first.delete} <= {r.name for r in again.delete} or again.delete == first.delete
    assert [a.model_dump() for a in again.status.attempts] == [a.model_dump() for a in first.status.attempts]
    if not first.create:
        assert again.status == first.status
        assert again.events == ()


@pytest.mark.parametrize("case", CASES)
def test_every_condition_and_event_says_something(case: str) -> None:
    made = planned(GOLDEN / case)

    assert [c.type for c in made.status.conditions if " " not in c.message] == []
    assert [e.reason for e in made.events if " " not in e.message] == []


def test_there_are_enough_cases_to_call_the_behaviour_written_down() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(
    ("left", "suspended", "decision"),
    [(True, True, "wait"), (False, True, "release"), (False, False, "none"), (True, False, "none")],
)
def test_cleanup_is_released_once_when_nothing_else_of_the_run_is_left(
    left: bool, suspended: bool, decision: str
) -> None:
    cleanup = scenes.child(
        scenes.job_of(), {"stage": "Cleanup", "spec": {"suspend": suspended}}, scenes.settings()
    )

    assert plan_cleanup(cleanup, (), run_left=left) == decision


@pytest.mark.parametrize(
    ("pod", "decision"),
    [
        ({"code": 0, "others": [{"name": "istio-proxy"}]}, "delete"),
        ({"code": 0, "others": [{"name": "istio-proxy", "kind": "NativeSidecar"}]}, "none"),
        ({"code": 5, "others": [{"name": "istio-proxy"}]}, "none"),
        ({"others": [{"name": "istio-proxy"}]}, "none"),
    ],
)
def test_a_cleanup_that_is_done_goes_although_a_sidecar_keeps_its_pod_alive(
    pod: Manifest, decision: str
) -> None:
    released = {"stage": "Cleanup", "spec": {"suspend": False}}
    cleanup = scenes.child(scenes.job_of(), released, scenes.settings())
    made = scenes.pod(scenes.job_of(), cleanup, pod)

    assert plan_cleanup(cleanup, [made], run_left=False) == decision


def planned(folder: Path) -> Plan:
    short = scenes.read(folder / "observed.yaml")
    configured = scenes.settings(short.get("settings"))
    job = scenes.job_of(scenes.read(folder / "job.yaml"), configured=configured)
    now = datetime.fromisoformat(short.get("now", scenes.NOW.isoformat()))
    return plan(job, scenes.observed_of(job, short, configured), configured, now)


def shown(made: Plan) -> Manifest:
    """A plan as few lines that say everything that was decided."""
    status = made.status
    lines: Manifest = {
        "apply": [f"{m['kind']} {m['metadata']['name']}" for m in made.apply],
        "create": [_created(m) for m in made.create],
        "delete": [f"{r.kind} {r.name}" for r in made.delete],
        "events": [f"{e.type} {e.reason}: {e.message}" for e in made.events],
        "requeue_after": made.requeue_after if made.requeue_after is None else round(made.requeue_after, 1),
        "poll": made.poll or None,
        "state": status.state.value if status.state else None,
        "stage": status.stage,
        "message": status.message,
        "progress": status.progress.model_dump(mode="json", exclude_none=True) if status.progress else None,
        "attempts": [_attempt(a) for a in status.attempts],
        "attempts_dropped": status.attempts_dropped.model_dump() if status.attempts_dropped else None,
        "conditions": {c.type: f"{c.status} {c.reason}" for c in status.conditions},
        "completion_time": status.completion_time.isoformat() if status.completion_time else None,
    }
    return {key: value for key, value in lines.items() if value not in (None, [], {})}


def _created(manifest: Manifest) -> str:
    words = [manifest["kind"], manifest["metadata"]["name"]]
    config = config_of(manifest)
    assert config
    words.append(
        f"{manifest['spec']['completions']} pods" if manifest["spec"]["completions"] > 1 else "1 pod"
    )
    if config.readback_stage:
        words.append(f"reads back {config.readback_stage} attempt {config.attempt}")
    if config.chosen:
        words.append(f"micro-batch {config.chosen.micro_batch_size} x {config.chosen.accumulation_steps}")
    if parent := config.run.model.parent:
        words.append(f"model of {parent.name} ({parent.uid[:8]})")
    if manifest["spec"].get("suspend"):
        words.append("suspended")
    return ", ".join([" ".join(words[:2]), *words[2:]])


def _attempt(attempt: AttemptStatus) -> str:
    words = f"{attempt.stage} {attempt.number} {attempt.outcome}"
    if attempt.micro_batch_size:
        words += f", micro-batch {attempt.micro_batch_size}"
    if attempt.reason:
        words += f", {attempt.failure or 'no class'}/{attempt.reason}: {attempt.message}"
    if attempt.pod:
        words += f" [{attempt.pod} on {attempt.node}, exit code {attempt.exit_code}]"
    return words


class Readable(yaml.SafeDumper):
    """Long text over several lines, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return data is not None
