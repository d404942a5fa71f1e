"""Three real processes; what one is told, all must be told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.contract import FailureClass
from finetune_trainer.pod.errors import PEER_LOST, explain

ROOT, WORLD, PATIENCE = Path(__file__).parents[3], 3, 1.0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which each process wrote what it found."""
    folder = tmp_path_factory.mktemp("gang")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.trainer.programs.gang", str(folder)],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def told(written: Path) -> list[dict[str, Any]]:
    """What each rank was told."""
    return [json.loads((written / f"{rank}.json").read_text()) for rank in range(WORLD)]


def test_those_who_met_know_where_they_stand(written: Path) -> None:
    stand = [json.loads((written / f"met-{rank}.json").read_text()) for rank in range(WORLD)]
    assert stand == [[rank, rank % 2, WORLD, "cpu", "gloo"] for rank in range(WORLD)]


@pytest.mark.parametrize("alone", ["no other", "no first"])
def test_who_waits_in_vain_says_so_in_time(written: Path, alone: str) -> None:
    end = json.loads((written / f"{alone}.json").read_text())
    assert (end["class"], end["reason"]) == (FailureClass.COMMUNICATION, "RendezvousFailed")
    assert end["message"].startswith("not all processes met within 1 s: ")
    assert len(end["message"]) <= 1000
    assert PATIENCE <= end["seconds"] < 60


def test_a_process_without_its_gpu_waits_for_nobody(written: Path) -> None:
    end = json.loads((written / "no GPU.json").read_text())
    assert (end["class"], end["reason"]) == (FailureClass.USER_CONFIG, "GpuMissing")
    assert end["message"].startswith("process 1 of this pod has no GPU; the pod sees 0")
    assert end["seconds"] < 60


def test_a_collective_that_hangs_ends_after_its_own_time_and_not_after_that_of_the_start(
    written: Path,
) -> None:
    end = json.loads((written / "no answer.json").read_text())
    assert end["reason"] == "RuntimeError"
    assert PATIENCE <= end["seconds"] < 60


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


def test_ranks_that_wait_longer_than_a_collective_may_last_show_signs_of_life(written: Path) -> None:
    waits = [json.loads((written / f"late-{rank}.json").read_text()) for rank in range(WORLD)]
    for first in waits[:-1]:
        assert first["seconds"] > PATIENCE
        assert first["beats"] > 10
        assert first["longest silence"] < first["seconds"] / 2


def test_the_wait_for_a_rank_that_dies_ends(written: Path) -> None:
    end = json.loads((written / "dead.json").read_text())
    assert end["reason"] == "RuntimeError"
    assert explain(RuntimeError(end["message"])).reason == PEER_LOST
    assert end["seconds"] < 60
