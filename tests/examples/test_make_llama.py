import hashlib
import json
from pathlib import Path

import pytest

from examples import make_llama


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"tell {n}", "completion": "ü" * n}) + "\n" for n in range(9))
    )
    return file


def test_the_folder_is_a_llama_whose_tokenizer_gives_every_text_back(tmp_path: Path, rows: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - heavy

    parameters = make_llama.make(tmp_path / "model", [rows])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (model.config.model_type, model.num_parameters()) == ("llama", parameters)
    ids = tokenizer("tell 3: üß€")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == "tell 3: üß€"
    assert "never trained" in (tmp_path / "model/README.md").read_text()


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, rows: Path) -> None:
    digests = []
    for name in ("one", "two"):
        make_llama.make(tmp_path / name, [rows])
        files = sorted((tmp_path / name).iterdir())
        digests.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert digests[0] == digests[1]
