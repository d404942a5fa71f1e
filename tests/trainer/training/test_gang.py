"""Three real processes; what one is told, all must be told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.programs.gang import WORLD

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank was told."""
    folder = tmp_path_factory.mktemp("gang")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.trainer.programs.gang", str(folder)],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


def test_every_rank_is_told_the_same(told: list[dict[str, Any]]) -> None:
    assert told == [told[0]] * WORLD
    assert told[0]["summed"] == [3, 1.5, 3 * 2.0**53]
    assert told[0]["largest"] == -1
    assert told[0]["gathered"] == [{"rank": rank, "long": "x" * rank} for rank in range(3)]
    assert told[0]["from first"] == ["of", 0]


@pytest.mark.parametrize("shares", ["uneven", "all with one"])
def test_rows_come_back_in_order_whoever_computed_them(shares: str, told: list[dict[str, Any]]) -> None:
    assert [of_rank[shares] for of_rank in told] == ["well"] * WORLD


@pytest.mark.parametrize(
    ("shares", "back", "sent"),
    [("one lost", 3, 4), ("one twice", 4, 3), ("one for another", 3, 3), ("one short", 2, 3)],
)
def test_rows_that_are_lost_or_come_twice_end_every_rank(
    shares: str, back: int, sent: int, told: list[dict[str, Any]]
) -> None:
    message = f"AssertionError: {back} rows came back where {sent} were sent out"
    assert [of_rank[shares] for of_rank in told] == [message] * WORLD


def test_all_leave_when_one_is_asked_to_and_none_otherwise(told: list[dict[str, Any]]) -> None:
    for of_rank in told:
        assert of_rank["asked None"] == "well"
        assert of_rank["asked 0"].startswith("StageFailure: Preempted")
        assert of_rank["asked 2"].startswith("StageFailure: Preempted")


def test_the_weights_that_the_first_rank_kept_are_on_every_rank(told: list[dict[str, Any]]) -> None:
    import torch  # noqa: PLC0415 - heavy

    torch.manual_seed(0)
    first = torch.nn.Linear(2, 2).weight.tolist()
    assert [of_rank["weights"] for of_rank in told] == [first] * WORLD
