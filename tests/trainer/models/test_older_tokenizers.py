"""Tokenizer files of transformers 5, written again in the words of transformers 4.

`bench/readers` loads such files with transformers 4.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from finetune_trainer.models import older_tokenizers

WORDS = {name: number for number, name in enumerate(["<unk>", "<s>", "</s>", "<pad>", "<|x|>", "red", "sea"])}
NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
TEXT = "red sea <|x|>"


def generic(folder: Path, **more: Any) -> Path:
    """A tokenizer of words, saved by transformers 5 in its own words."""
    words = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))  # noqa: S106 - no password
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    PreTrainedTokenizerFast(tokenizer_object=words, **NAMES, **more).save_pretrained(folder)
    return folder


def of_class(kind: Callable[..., Any], *extra: str) -> Callable[[Path], Path]:
    """A tokenizer of a class of transformers 5 that begins a text with no token."""

    def make(folder: Path) -> Path:
        more = {"extra_special_tokens": [*extra]} if extra else {}
        kind(vocab=WORDS, merges=[], **NAMES, **more).save_pretrained(folder)
        return folder

    return make


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
    return found


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (generic, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        (
            lambda folder: generic(folder, extra_special_tokens=["<|x|>"]),
            {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<|x|>"]},
        ),
        (
            of_class(LlamaTokenizer),
            {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": False},
        ),
        (
            of_class(GemmaTokenizer, "<|x|>"),
            {"additional_special_tokens": ["<|x|>"], "add_bos_token": False, "add_eos_token": False},
        ),
    ],
    ids=["class", "list of tokens", "Llama without BOS", "Gemma without BOS"],
)
def test_a_file_of_transformers_5_gets_the_words_of_transformers_4_and_reads_alike(
    tmp_path: Path, make: Callable[[Path], Path], changed: dict[str, Any]
) -> None:
    folder = make(tmp_path)
    before = AutoTokenizer.from_pretrained(folder)
    older_tokenizers.convert(folder)
    found = config(folder)
    assert changed.items() <= found.items()
    assert "extra_special_tokens" not in found
    after = AutoTokenizer.from_pretrained(folder)
    assert after(TEXT)["input_ids"] == before(TEXT)["input_ids"]
    assert sorted(after.all_special_tokens) == sorted(before.all_special_tokens)
    assert older_tokenizers.is_readable(folder)


def test_a_file_of_transformers_4_keeps_its_bytes(tmp_path: Path) -> None:
    folder = generic(tmp_path)
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<|x|>"], **NAMES}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    before = (folder / "tokenizer_config.json").read_bytes()
    older_tokenizers.convert(folder)
    assert (folder / "tokenizer_config.json").read_bytes() == before
    assert older_tokenizers.is_readable(folder)


def test_a_file_that_would_be_read_otherwise_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = generic(tmp_path)
    before = config(folder)
    worse = {**before, "tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"}
    monkeypatch.setattr(older_tokenizers, "_list_conversions", lambda _document, _folder: iter([worse]))
    older_tokenizers.convert(folder)
    assert config(folder) == before
    assert not older_tokenizers.is_readable(folder)
