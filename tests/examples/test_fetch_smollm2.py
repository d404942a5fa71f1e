"""The conversion of the base model of debian-summaries."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from examples import fetch_smollm2

WEIGHTS_SHA256 = "08587497151051bb64ba4ae8288856623bb8c6cd5dc22bb3bda06ebda07a1bcd"
"""Digest of the weights that transformers reads with `gguf_file=..., dtype=torch.bfloat16`."""
TOKENS = {
    "Hello, world! It is 19:58 on 2026-11-28.": [
        *(19556, 28, 905, 17, 657, 314, 216, 33, 41, 42, 37, 40, 335),
        *(216, 34, 32, 34, 38, 29, 33, 33, 29, 34, 40, 30),
    ],
    "Grüße aus Köln: naïve 东京 \N{WHITE HEAVY CHECK MARK} €9.50": [
        *(27302, 7170, 34878, 85, 253, 376, 659, 7466, 34115, 42, 15486, 46494),
        *(216, 7906, 246, 16736, 122, 4636, 246, 223, 24927, 41, 30, 37, 32),
    ],
    "def f(x):\n\treturn  x ** 2\n": [1604, 275, 24, 104, 727, 198, 197, 5406, 216, 1792, 1903, 216, 34, 198],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
}
"""Tokens of some texts by the tokenizer that transformers reads with `gguf_file=...`."""


@pytest.fixture(scope="module")
def folder() -> Path:
    return fetch_smollm2.converted()


def test_the_folder_has_the_files_of_a_model_and_its_licence(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == [
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


def test_the_weights_are_those_of_the_gguf_file(folder: Path) -> None:
    import torch  # noqa: PLC0415 - heavy
    from safetensors.torch import load_file  # noqa: PLC0415 - heavy

    weights = load_file(folder / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].view(torch.int16).numpy().tobytes())
    assert digest.hexdigest() == WEIGHTS_SHA256


@pytest.mark.parametrize("text", TOKENS)
def test_a_text_has_the_tokens_of_the_gguf_file(folder: Path, text: str) -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(text)["input_ids"] == TOKENS[text]
    assert tokenizer.decode(TOKENS[text]) == text


def test_the_model_answers_a_question(folder: Path) -> None:
    import torch  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - heavy

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    written = model.generate(ids, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."


def test_the_second_call_finds_the_converted_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_smollm2, "convert", lambda *_: pytest.fail("the model is converted again"))
    assert fetch_smollm2.converted() == folder
