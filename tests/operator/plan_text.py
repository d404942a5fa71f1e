"""A plan as the text of plan.yaml."""

import difflib
from typing import Any

from finetune_operator.api import AttemptStatus
from finetune_operator.objects import Manifest
from finetune_operator.planning.types import Plan
from finetune_operator.rendering.cleanup_record import read_record
from finetune_operator.rendering.jobs import config_of
from tests.operator.cases import text_of


def diff(expected: Any, made: Any) -> str:
    """The unified diff of two documents as YAML; empty where they are equal."""
    before, after = (text_of(document).splitlines() for document in (expected, made))
    return "\n".join(difflib.unified_diff(before, after, "plan.yaml", "plan()", lineterm=""))


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
    if config.skipped_step:
        words.append(f"skips step {config.skipped_step}")
    if config.finish:
        words.append("finishes")
    if parent := config.run.model.parent:
        words.append(f"model of {parent.name} ({parent.uid[:8]})")
    return ", ".join([" ".join(words[:2]), *words[2:]])


def _attempt(attempt: AttemptStatus) -> str:
    words = f"{attempt.stage} {attempt.number} {attempt.outcome}"
    if attempt.micro_batch_size:
        words += f", micro-batch {attempt.micro_batch_size}"
    if attempt.micro_batch_tokens:
        words += f", micro-batch of {attempt.micro_batch_tokens} tokens"
    if attempt.resumed_from_step is not None:
        words += f", resumed from step {attempt.resumed_from_step}"
    if attempt.checkpoint_step is not None:
        words += f", checkpoint of step {attempt.checkpoint_step}"
    if attempt.lost_steps is not None:
        words += f", lost {attempt.lost_steps} steps"
    if attempt.in_place_restarts:
        words += f", {attempt.in_place_restarts.count} restarts in place"
    if attempt.reason:
        words += f", {attempt.failure or 'no class'}/{attempt.reason}: {attempt.message}"
    if attempt.pod:
        words += f" [{attempt.pod} on {attempt.node}, exit code {attempt.exit_code}]"
    return words
