"""When the cleanup Job of a deleted run may delete. Pure."""

from collections.abc import Iterable
from typing import Literal

from finetune_operator.objects import Manifest, kept_alive_by, pods_of, terminated


def plan_cleanup(
    cleanup_job: Manifest, pods: Iterable[Manifest], *, run_left: bool
) -> Literal["wait", "release", "delete", "none"]:
    """What to do about a cleanup Job whose FineTuneJob is gone.

    Args:
        cleanup_job: the Job.
        pods: the run's pods.
        run_left: whether the run has pods left, or Jobs that may still make some.

    Returns:
        `none`: it was released before; `wait`: not yet; `release`: now; `delete`: it has done its work, but
        an injected container keeps its pod alive.
    """
    if not cleanup_job["spec"].get("suspend"):
        done = [p for p in pods_of(pods, cleanup_job) if (terminated(p) or {}).get("exitCode") == 0]
        return "delete" if any(kept_alive_by(pod) for pod in done) else "none"
    return "wait" if run_left else "release"
