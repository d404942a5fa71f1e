"""Real gangs: the start of a head is the same for every number of processes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.trainer import forks
from tests.trainer.training.test_loop import FREEZE, FULL, LORA

CASES = [[FULL, 3], [LORA, 0], [LORA, 3], [FREEZE, 3]]


def started(processes: int, base: Path, result: Path, cases: list[Any]) -> dict[str, Any]:
    arguments = (str(base), str(result), *map(json.dumps, cases))
    ended = forks.run("tests.trainer.programs.head_starts", *arguments, ranks=processes)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def test_a_head_starts_alike_for_every_world_size_method_and_zero_stage(
    tiny_base: Path, tmp_path: Path
) -> None:
    one = started(1, tiny_base, tmp_path / "1.json", [])
    two = started(2, tiny_base, tmp_path / "2.json", CASES)
    assert one["init"] == two["init"]
    assert one["init"]["rows"] == 21
    assert one["weights"].keys() == two["weights"].keys()
    for name, weight in one["weights"].items():
        # On some CPUs, features are rounded differently in other batches, and the fit amplifies this.
        difference = np.abs(np.subtract(weight, two["weights"][name])).max()
        assert difference <= 2e-3 * np.abs(weight).max(), name
    assert np.abs(one["weights"]["classifier.bias"]).max() > 0.01, "not the zeros of a new head"
    for case, (sharded, copied) in two["copied"].items():
        assert sharded is (json.loads(case)[1] == 3)
        assert copied, case
        assert all(copied), case
