"""When the cleanup Job of a deleted run may delete. Pure."""

from typing import Literal

from finetune_operator.objects import Manifest


def plan_cleanup(cleanup_job: Manifest, *, run_left: bool) -> Literal["wait", "release", "none"]:
    """What to do about a cleanup Job whose FineTuneJob is gone.

    Args:
        cleanup_job: the Job.
        run_left: whether the run has pods left, or Jobs that may still make some.

    Returns:
        `none`: it was released before; `wait`: not yet; `release`: now.
    """
    if not cleanup_job["spec"].get("suspend"):
        return "none"
    return "wait" if run_left else "release"
