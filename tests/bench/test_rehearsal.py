"""The inputs and the table of the rehearsal."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from bench.rehearsal import random_model
from bench.rehearsal.__main__ import format_table
from bench.rehearsal.job import make_spec
from bench.rehearsal.rows import make_rows
from bench.shapes import Shape
from finetune_operator.api import FineTuneJobSpec

TOKENS = 32
TINY = Shape(layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, vocabulary=2000)


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model in several files."""
    monkeypatch.setattr(random_model, "_FILE_BYTES", 300_000)
    for file in random_model.write_files(TINY):
        shutil.copy(file, tmp_path)
    return tmp_path


def test_the_model_loads_whole_and_ends_its_texts_at_once(model_folder: Path) -> None:
    assert len(list(model_folder.glob("*.safetensors"))) > 1
    model, loaded = AutoModelForCausalLM.from_pretrained(model_folder, output_loading_info=True)
    assert not any(loaded.values())
    assert model.dtype == torch.bfloat16
    ends = GenerationConfig.from_pretrained(model_folder).eos_token_id
    ids = torch.arange(10, 10 + 64)[:, None]
    with torch.no_grad():
        likely = model(input_ids=ids).logits[:, -1].argmax(-1)
    assert torch.isin(likely, torch.tensor(ends)).float().mean() > 0.9


def test_a_row_has_the_given_number_of_tokens(model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    rows = [json.loads(line) for line in make_rows(3, TOKENS, seed=1).splitlines()]
    assert len(rows) == 3
    for row in rows:
        ids = tokenizer(row["prompt"] + row["completion"])["input_ids"]
        assert len(ids) == TOKENS - 2
        assert tokenizer.unk_token_id not in ids


def test_the_spec_is_valid() -> None:
    spec = make_spec("inputs", "model", "rows", TOKENS, "11Gi", "900m")
    whole = spec | {"output": {"uri": "s3://outputs/a/"}, "storage": {"endpoint": "https://s3.example"}}
    assert FineTuneJobSpec.model_validate(whole).resources.nodes == 2


def test_the_table_has_estimate_and_measurement() -> None:
    gib = 2**30
    attempts = [
        {
            "stage": stage,
            "startTime": "2026-01-01T00:00:00Z",
            "endTime": "2026-01-01T00:01:30Z",
            "outcome": "Succeeded",
            "peakMemoryBytes": gib,
        }
        for stage in ("Prepare", "Train")
    ]
    status = {"memory": {"train": 3 * gib // 2}, "attempts": attempts}
    assert list(format_table(status))[2:] == [
        "| Prepare | 4Gi |  | 1.00 | 90 | Succeeded |",
        "| Train | 11Gi | 1.50 | 1.00 | 90 | Succeeded |",
    ]
