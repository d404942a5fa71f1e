"""How long a Job may wait for its pods, and its pods may run. Pure."""

from datetime import datetime

from finetune_operator import waiting
from finetune_operator.names import Reason, State
from finetune_operator.observed import Manifest
from finetune_operator.turn import Decision, Stop, Turn, find_job, moment, pods_of, report_name, since
from finetune_trainer.contract import Stage


def check(turn: Turn) -> Decision | None:
    """Ends a job whose running attempt has passed its deadline."""
    left = remaining(turn)
    if left is None or left[0] > 0 or turn.running is None:
        return None
    running, (_, told) = turn.running, left
    message = f"{running.stage} attempt {running.number}: {told}"
    return Decision(
        State.FAILED,
        Reason.DEADLINE_EXCEEDED,
        message,
        stop=Stop("Failed", Reason.DEADLINE_EXCEEDED, message),
    )


def remaining(turn: Turn) -> tuple[float, str] | None:
    """Seconds until the running attempt has to have come further, and what is said when it has not."""
    if turn.running is None or (turn.undecided and turn.undecided.kind == "collecting"):
        return None
    lost = turn.undecided is not None and turn.undecided.kind == "lost"
    name = report_name(turn, turn.running) if lost else turn.running.job
    job = find_job(turn.observed, name)
    if job is None or job["spec"].get("suspend"):
        return None
    pods = pods_of(turn.observed.pods, job)
    if waits := waiting.on(job, pods, turn.observed.events):
        limit = turn.settings.deadlines.pods_start
        begun = moment(job.get("status", {}).get("startTime") or job["metadata"].get("creationTimestamp"))
        told = f"its pods did not all start within {limit} s. {waits.message}"
    else:
        limit = _run_limit(turn, Stage(turn.running.stage))
        begun = _all_started(pods)
        told = (
            f"it did not end within {limit} s. The operator's settings (deadlines) allow no more; ask for"
            " less or have them raised."
        )
    return (limit - since(begun, turn.now), told) if begun else None


def _run_limit(turn: Turn, stage: Stage) -> int:
    deadlines = turn.settings.deadlines
    return {Stage.PREPARE: deadlines.prepare, Stage.TRAIN: deadlines.train}.get(stage, deadlines.publish)


def _all_started(pods: list[Manifest]) -> datetime | None:
    """When the last pod began to run."""
    begun = [moment(p.get("status", {}).get("startTime")) for p in pods]
    return max((b for b in begun if b), default=None)
