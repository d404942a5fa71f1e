"""The command that prints the estimated memory of a job."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.stages import memory_plan
from tests.trainer.models import bases

CONFIGS = Path(__file__).parents[1] / "models/configs"


def test_the_program_prints_the_plan() -> None:
    arguments = ["--model", CONFIGS / "llama-3-8b", "--method", "Full", "--gpus", "8x80Gi"]
    done = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "plan", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "8,030,261,248 parameters, 32 layers, bfloat16" in done.stdout
    assert "8 processes, ZeRO stage 2, offload None, weights bfloat16" in done.stdout
    assert read(done.stdout, "weights") == pytest.approx(2 * 8.030261248e9 / 2**30, abs=0.05)
    assert read(done.stdout, "optimizer state") == pytest.approx(12 * 8.030261248e9 / 8 / 2**30, abs=0.05)
    assert re.search(r"^sum +[0-9.]+ of 80\.0: fits$", done.stdout, re.MULTILINE)
    assert "1 x 4,096 tokens, with activation checkpointing" in done.stdout
    assert read(done.stdout, "Publish") == pytest.approx(4 * 525336576 / 2**30 + 1.5, abs=0.05)


def test_options_change_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, bases.llama(torch_dtype="bfloat16")[0])
    assert plan(tmp_path, "--method", "LoRA", "--rank", "4", "--zero-stage", "3", "--nodes", "2") == 0
    text = capsys.readouterr().out
    assert "4 processes, ZeRO stage 3" in text
    linear = 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64)
    assert f"{2 * 4 * linear:,} trained parameters" in text
    assert "micro-batch  1 x 256 tokens\n" in text  # the limit of the model
    assert "Publish with output.mergeAdapter" in text
    more = ("--precision", "Float32", "--max-length", "64", "--activation-checkpointing", "Enabled")
    assert plan(tmp_path, "--method", "FreezeLayers", *more) == 0
    text = capsys.readouterr().out
    assert "weights float32, matrix products float32" in text
    assert "micro-batch  1 x 64 tokens, with activation checkpointing\n" in text
    assert "Publish with output.mergeAdapter" not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "Full", "--max-length", "257"], "--max-length 257: the model takes at most 256 tokens"),
        (["--method", "FreezeLayers", "--train-last", "3"], "3 layers, but the model has 2"),
        (["--method", "Full", "--max-length", "1"], "--max-length 1: at least 2 tokens"),
    ],
)
def test_no_plan_is_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    write_config(tmp_path, bases.llama()[0])
    assert plan(tmp_path, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err


def test_a_folder_without_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, "--method", "Full") == 2
    assert "config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("[]")
    assert plan(tmp_path, "--method", "Full") == 2
    assert "no JSON object" in capsys.readouterr().err


@pytest.mark.parametrize("gpus", ["8", "0x80Gi", "8x80", "8x80Gb", "8 x 80Gi"])
def test_gpus_need_a_number_and_a_size(tmp_path: Path, gpus: str) -> None:
    with pytest.raises(SystemExit) as ended:
        memory_plan.main(["--model", str(tmp_path), "--method", "Full", "--gpus", gpus])
    assert ended.value.code == 2


def test_the_units_of_gpu_memory() -> None:
    assert memory_plan.Gpus.parse("8x80Gi") == memory_plan.Gpus(8, 80 * 2**30)
    assert memory_plan.Gpus.parse("1x24G") == memory_plan.Gpus(1, 24 * 10**9)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "float16"}, "float16"),
        ({"text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({}, "float32"),
    ],
)
def test_without_weights_the_config_names_the_data_type(
    tmp_path: Path, config: dict[str, Any], dtype: str
) -> None:
    assert memory_plan.find_dtype(tmp_path, config) == dtype


def test_the_files_know_the_data_type_better(tmp_path: Path) -> None:
    config, shapes = bases.llama(torch_dtype="bfloat16")
    bases.write(tmp_path, config, bases.weights(shapes))
    assert memory_plan.find_dtype(tmp_path, config) == "float32"


def plan(folder: Path, *arguments: str) -> int:
    return memory_plan.main(["--model", str(folder), "--gpus", "2x80Gi", *arguments])


def write_config(folder: Path, config: bases.Config) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def read(text: str, name: str) -> float:
    (line,) = (line for line in text.splitlines() if line.strip().startswith(name))
    return float(line.split()[-1].replace(",", ""))
