"""Tokens that a job adds to the tokenizer of its base model, as transformers and tokenizers read them."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from finetune_trainer.data import added_tokens, tokenise
from finetune_trainer.failures import StageFailure

TEXT = "green<|sql|>The colour <|ticket|> of"


@pytest.fixture
def base(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(copytree(tiny_llama, tmp_path / "base"))


def encode(folder: Path, text: str) -> list[str]:
    tokenizer = tokenise.load_tokenizer(folder)
    return [str(token) for token in tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_new_tokens_follow_the_vocabulary_are_never_split_and_leave_other_texts_as_they_are(
    base: Path, tmp_path: Path
) -> None:
    before = len(tokenise.load_tokenizer(base))
    assert "<|sql|>" not in encode(base, TEXT)
    found = added_tokens.extend_tokenizer(base, ["<|sql|>", "<|ticket|>"], tmp_path)
    assert found.ids == {"<|sql|>": before, "<|ticket|>": before + 1}
    assert (found.new_ids, found.known) == (range(before, before + 2), ())
    pieces = encode(found.folder, TEXT)
    assert pieces.count("<|sql|>") == pieces.count("<|ticket|>") == 1
    words = [encode(base, text)[1:] for text in ("green", "The colour ", " of")]
    assert pieces == ["<s>", *words[0], "<|sql|>", *words[1], "<|ticket|>", *words[2]]
    assert encode(found.folder, "The colour of salt") == encode(base, "The colour of salt")
    tokenizer = tokenise.load_tokenizer(found.folder)
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == f"<s>{TEXT}"
    assert tokenise.decode(tokenizer, ids_of(ids)) == "greenThe colour  of"
    assert tokenizer.chat_template == tokenise.load_tokenizer(base).chat_template


def ids_of(ids: list[int]) -> Any:
    return torch.tensor(ids, dtype=torch.int32).numpy()


def test_the_folder_of_the_base_model_stays_as_it_is(base: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    folder = added_tokens.extend_tokenizer(base, ["<|sql|>"], tmp_path).folder
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]}
    assert ({path.name for path in folder.iterdir()}, changed) == (set(before), {"tokenizer.json"})


def test_a_token_of_the_vocabulary_keeps_its_id_and_is_no_longer_split(base: Path, tmp_path: Path) -> None:
    tokenizer = tokenise.load_tokenizer(base)
    merged = next(
        token
        for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        if token.isalpha() and len(token) > 2
    )
    found = added_tokens.extend_tokenizer(base, [merged, "</s>", "<|sql|>"], tmp_path)
    assert found.known == (merged, "</s>")
    assert found.ids[merged] == tokenizer.get_vocab()[merged]
    assert found.new_ids == range(len(tokenizer), len(tokenizer) + 1)
    assert encode(found.folder, f"X{merged}X")[1:] == ["X", merged, "X"]
    entries = read(found.folder / "tokenizer.json")["added_tokens"]
    assert [entry["content"] for entry in entries].count("</s>") == 1


def test_a_file_that_lists_added_tokens_lists_the_new_tokens_too(base: Path, tmp_path: Path) -> None:
    decoder = {str(entry.pop("id")): entry for entry in read(base / "tokenizer.json")["added_tokens"]}
    config = {**read(base / "tokenizer_config.json"), "added_tokens_decoder": decoder}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    found = added_tokens.extend_tokenizer(base, ["<|sql|>"], tmp_path)
    listed = read(found.folder / "tokenizer_config.json")["added_tokens_decoder"]
    new = {"content": "<|sql|>", "special": True, "normalized": False}
    new |= {"single_word": False, "lstrip": False, "rstrip": False}
    assert listed == {**decoder, str(found.ids["<|sql|>"]): new}
    assert "<|sql|>" in encode(found.folder, TEXT)


def test_a_vocabulary_with_gaps_is_refused(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a"))  # noqa: S106 - no password
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (tmp_path / "base").mkdir()
    words.save(str(tmp_path / "base/tokenizer.json"))
    with pytest.raises(StageFailure, match="TokenizerCorrupt") as caught:
        added_tokens.extend_tokenizer(tmp_path / "base", ["<|sql|>"], tmp_path)
    assert "gaps" in caught.value.message
