import json
from pathlib import Path

import pytest

from finetune_trainer.training.rank_speed import bus_bandwidth, slowest
from tests.trainer import forks


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0, 2.0], (1, 2.0)),
        ([3.0, 1.0, 1.0, 2.0], (0, 3.0)),
        ([1.0, 1.0, 1.0], (0, 1.0)),
        ([0.0, 0.0], (0, 0.0)),
    ],
)
def test_the_slowest_rank_is_compared_with_the_median(
    seconds: list[float], expected: tuple[int, float]
) -> None:
    assert slowest(seconds) == expected


def test_the_bus_bandwidth_is_that_of_a_ring() -> None:
    assert bus_bandwidth(800, 2, 2.0) == 400
    assert bus_bandwidth(800, 4, 2.0) == 600


def test_a_rank_with_more_work_is_found_and_all_ranks_agree(tmp_path: Path) -> None:
    result = tmp_path / "speed.json"
    ended = forks.run("tests.trainer.programs.slow_rank", str(result), ranks=3)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(result.read_text())
    assert found[0] == found[1] == found[2]
    rank, ratio = found[0]
    assert rank == 2
    assert ratio > 1.5
