"""PURE. The table of the benchmark, in Markdown."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel

HEAD = (
    *("fault", "scenario", "outcome", "seconds to the next step", "steps lost", "people needed"),
    "equal to the training without faults",
)
ELSEWHERE = {
    "SIGKILL of PID 1 of a pod in a cluster, deleted pods, SIGKILL of the operator while a gang trains": (
        "tests/e2e/test_faults.py: test_a_gang_that_is_struck_in_five_ways_has_the_scores_of_one_that_is_not"
    ),
    "suspended job": "tests/e2e/test_suspend.py: test_a_training_is_suspended_resumed_and_ended_early",
    "SIGKILL of the operator at random moments": (
        "tests/e2e/test_kills.py: test_killed_at_ten_random_moments_every_job_ends_the_same"
    ),
    "upload that nobody ends": (
        "tests/e2e/test_deletion.py: test_deleted_in_train_with_an_upload_that_nobody_ends"
    ),
    "hanging rank": (
        "tests/trainer/pod/test_supervisor.py: test_all_ranks_write_their_stacks_when_one_rank_hangs"
    ),
    "out of memory": (
        "tests/trainer/pod/test_supervisor.py: test_an_oom_kill_is_distinguished_from_another_sigkill"
    ),
    "kubelet stopped, node lost": "not covered",
}
"""Faults that this benchmark cannot inject, and the tests that inject them."""


class Row(BaseModel, frozen=True):
    """One fault in one scenario."""

    fault: str
    scenario: str
    outcome: str
    seconds: float
    """Longest time from a fault to the next optimizer step."""
    lost: int
    """Optimizer steps that were made again."""
    finished: bool
    """Whether the training succeeded without help."""
    problems: tuple[str, ...]
    """Violated expectations; empty if all checks have passed."""


def rendered(rows: Iterable[Row]) -> str:
    """The table of all faults.

    Args:
        rows: the faults that were injected.
    """
    cells = [
        (
            row.fault,
            row.scenario,
            row.outcome,
            f"{row.seconds:.1f}",
            str(row.lost),
            "0" if row.finished else "1",
            "; ".join(row.problems) or "yes",
        )
        for row in rows
    ]
    other = _lines(("fault that this benchmark cannot inject", "test"), ELSEWHERE.items())
    return f"{_lines(HEAD, cells)}\n\n{other}"


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
