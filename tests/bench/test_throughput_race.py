"""Two of the real trainers on a tiny model; TRL has an environment of its own, which tests do not make."""

from dataclasses import replace
from pathlib import Path

from bench.train_throughput import race
from bench.train_throughput.cases import GENERATION, OURS, PLAIN
from bench.train_throughput.table import strangers
from tests.trainer import forks


def test_all_do_the_same_work_on_every_row_and_are_timed_in_turn(tmp_path: Path) -> None:
    for name in ("tiny", "tiny-still"):
        forks.run("tests.trainer.programs.tiny_llama", str(tmp_path / name)).check_returncode()
    here = tuple(each for each in GENERATION.contenders if each.name in {PLAIN, OURS})
    case = replace(GENERATION, model="tiny", rows=40, batch=16, micro_batch=4, longest=100, contenders=here)

    measured = race.measured(case, tmp_path, rounds=2, threads=1)

    assert strangers(measured) == []
    assert [trained.name for trained in measured.contenders] == [each.name for each in here]
    for trained in measured.contenders:
        assert trained.steps == 3
        assert len(trained.seconds) == 2
        assert 0 < trained.loss < 10
        assert {"torch", "transformers"} <= trained.versions.keys()
