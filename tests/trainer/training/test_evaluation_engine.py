"""A model that is sharded over two ranks gives the answers of the whole model, and can then be trained."""

import json
from pathlib import Path

import pytest

from tests.trainer import forks
from tests.trainer.programs import sharded_evaluation


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sharded_model_is_evaluated_without_a_trace(tiny_llama: Path, tmp_path: Path, dtype: str) -> None:
    result = tmp_path / "result.json"
    arguments = (str(tiny_llama), dtype, str(result))
    ended = forks.run("tests.trainer.programs.sharded_evaluation", *arguments, ranks=2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(result.read_text())
    whole = found["whole"]
    assert whole["packing"]
    assert len(whole["generated"]) == sharded_evaluation.PROMPTS
    assert whole["passes"] < sharded_evaluation.PROMPTS * sharded_evaluation.NEW_TOKENS
    for method in ("Full", "LoRA"):
        plain, evaluated = found[f"{method}, evaluated: False"], found[f"{method}, evaluated: True"]
        assert evaluated["before"] == whole
        assert evaluated["sharded"]
        before, after = evaluated["elements"]
        assert after == before
        assert evaluated["steps"] == plain["steps"]
        assert len(plain["steps"]) == 3
    assert found["freed"] == [True, True], "models whose engines have ended"
    for case in (False, True):
        assert found[f"LoRA, evaluated: {case}"]["without adapter"] == whole
