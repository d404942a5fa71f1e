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

ROOT, WORLD, PATIENCE = Path(__file__).parents[3], 3, 3.0


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


def test_every_rank_has_its_position_in_the_process_group(written: Path) -> None:
    stand = [json.loads((written / f"met-{rank}.json").read_text()) for rank in range(WORLD)]
    assert stand == [[rank, rank % 2, WORLD, "cpu", "gloo"] for rank in range(WORLD)]


@pytest.mark.parametrize("alone", ["no other", "no first"])
def test_a_missing_rank_fails_the_rendezvous_within_the_time_limit(written: Path, alone: str) -> None:
    end = json.loads((written / f"{alone}.json").read_text())
    assert (end["class"], end["reason"]) == (FailureClass.COMMUNICATION, "RendezvousFailed")
    assert end["message"].startswith("not all ranks joined within 3 s: ")
    assert len(end["message"]) <= 1000
    assert PATIENCE <= end["seconds"] < 60


def test_a_missing_gpu_fails_before_the_rendezvous(written: Path) -> None:
    end = json.loads((written / "no GPU.json").read_text())
    assert (end["class"], end["reason"]) == (FailureClass.USER_CONFIG, "GpuMissing")
    assert end["message"].startswith("process 1 of this pod has no GPU; the pod has 0 GPUs")
    assert end["seconds"] < 60


def test_a_hanging_collective_fails_after_the_hang_time_out(
    written: Path,
) -> None:
    end = json.loads((written / "no answer.json").read_text())
    assert end["reason"] == "RuntimeError"
    assert PATIENCE <= end["seconds"] < 60


def test_collective_operations_have_the_same_result_on_every_rank(told: list[dict[str, Any]]) -> None:
    assert told == [told[0]] * WORLD
    assert told[0]["summed"] == [3, 1.5, 3 * 2.0**53]
    assert told[0]["largest"] == -1
    assert told[0]["gathered"] == [{"rank": rank, "long": "x" * rank} for rank in range(3)]
    assert told[0]["from first"] == ["of", 0]


@pytest.mark.parametrize("shares", ["uneven", "all with one"])
def test_gathered_rows_are_in_order_for_every_division_among_ranks(
    shares: str, told: list[dict[str, Any]]
) -> None:
    assert [of_rank[shares] for of_rank in told] == ["well"] * WORLD


@pytest.mark.parametrize(
    ("shares", "back", "sent"),
    [("one lost", 3, 4), ("one twice", 4, 3), ("one for another", 3, 3), ("one short", 2, 3)],
)
def test_missing_or_repeated_rows_fail_on_every_rank(
    shares: str, back: int, sent: int, told: list[dict[str, Any]]
) -> None:
    message = f"AssertionError: the ranks returned {back} rows with other numbers than 0 to {sent - 1}"
    assert [of_rank[shares] for of_rank in told] == [message] * WORLD


def test_all_ranks_end_if_one_rank_has_the_request_to_end(told: list[dict[str, Any]]) -> None:
    for of_rank in told:
        assert of_rank["asked None"] == "well"
        assert of_rank["asked 0"].startswith("StageFailure: Preempted")
        assert of_rank["asked 2"].startswith("StageFailure: Preempted")


def test_a_weight_that_the_published_data_type_cannot_represent_ends_all_ranks(
    told: list[dict[str, Any]],
) -> None:
    for of_rank in told:
        assert "WeightsOverflow: the weight weight 2 has values up to 7e+04" in of_rank["rounded"]


def test_ranks_read_the_messages_of_other_ranks(told: list[dict[str, Any]]) -> None:
    assert [of_rank["told"] for of_rank in told] == [True] * WORLD


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
