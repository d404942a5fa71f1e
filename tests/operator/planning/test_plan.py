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
from finetune_operator.planning.plan import plan
from finetune_operator.planning.status import FINAL_STATES
from finetune_operator.planning.types import Plan
from finetune_operator.rendering.cleanup_record import read_record
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
def test_a_second_reconcile_makes_the_same_decision(case: str) -> None:
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
def test_every_condition_and_event_has_a_message(case: str) -> None:
    made = planned(GOLDEN / case)

    assert [c.type for c in made.status.conditions if " " not in c.message] == []
    assert [e.reason for e in made.events if " " not in e.message] == []


@pytest.mark.parametrize("case", CASES)
def test_the_cause_of_an_end_stands_in_one_condition(case: str) -> None:
    """The message, Succeeded and the failed attempt hold the cause; other conditions refer to it."""
    status = planned(GOLDEN / case).status
    causes = [a.message for a in status.attempts if a.outcome == "Failed" and a.message]
    if status.state not in FINAL_STATES:
        return
    for condition in status.conditions:
        tells = [c for c in (*causes[-1:], status.message) if c and len(c) > 1 and c in condition.message]
        assert condition.type == "Succeeded" or not tells, condition


def test_at_least_forty_golden_cases_exist() -> None:
    assert len(CASES) >= 40


def planned(folder: Path) -> Plan:
    short = scenes.read(folder / "observed.yaml")
    configured = scenes.settings(short.get("settings"))
    job = scenes.job_of(scenes.read(folder / "job.yaml"), configured=configured)
    now = datetime.fromisoformat(short.get("now", scenes.NOW.isoformat()))
    return plan(job, scenes.observed_of(job, short, configured), configured, now)


def shown(made: Plan) -> Manifest:
    """Abbreviates a plan to the lines that hold its decisions."""
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
        "training_start_time": status.training_start_time.isoformat() if status.training_start_time else None,
        "completion_time": status.completion_time.isoformat() if status.completion_time else None,
    }
    return {key: value for key, value in lines.items() if value not in (None, [], {})}


def _created(manifest: Manifest) -> str:
    words = [manifest["kind"], manifest["metadata"]["name"]]
    if manifest["kind"] == "ControllerRevision":
        parent = read_record(manifest).run.model.parent
        model = [f"model of {parent.name} ({parent.uid[:8]})"] if parent else []
        return ", ".join([" ".join(words), *model])
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
