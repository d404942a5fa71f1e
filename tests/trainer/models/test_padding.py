"""Decoders without padding token as classifiers: alone as in a batch, by plain transformers."""

import json
from pathlib import Path
from shutil import copyfile

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from finetune_trainer.models import methods, padding
from finetune_trainer.models.base_model import TOKENIZER_FILES
from finetune_trainer.tasks.text_classification.classifier import load_classifier
from tests.trainer.models import bases

WORDS = ["a", "b", "c", "d", "e"]
TEXTS = ["b", "b c d e a", "c d a", "a a a a"]
"""Some end in `a`, which is token 0."""


def base(folder: Path, special: dict[str, str], more: tuple[str, ...] = (), free: int = 0) -> Path:
    """A Llama whose tokenizer knows some words, special tokens, and further ones of no name."""
    names = [*special.values(), *more]
    vocabulary = {word: number for number, word in enumerate([*WORDS, *dict.fromkeys(names)])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="e"))  # noqa: S106 - no password
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(list(dict.fromkeys(names)))
    config, shapes = bases.llama(vocab_size=len(vocabulary) + free)
    tensors = bases.weights(
        {
            name: (len(vocabulary) + free, 32) if shape[0] == bases.WORDS else shape
            for name, shape in shapes.items()
        }
    )
    bases.write(folder, config, tensors)
    words.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


NONE = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("special", "more", "free", "text"),
    [
        ({**NONE, "pad_token": "[P]"}, (), 0, "[P]"),
        (NONE, ("<|right_pad_id|>", "<|reserved_0|>"), 9, "<|right_pad_id|>"),
        (NONE, ("<|reserved_0|>",), 9, "<pad>"),
        (NONE, ("<|reserved_0|>", "<|reserved_1|>", "<|user|>"), 0, "<|reserved_1|>"),
        (NONE, ("<|user|>",), 0, "</s>"),
    ],
    ids=["its own", "by name", "free row", "reserved", "end of text"],
)
def test_a_published_decoder_classifies_alone_as_in_a_batch(
    tmp_path: Path, special: dict[str, str], more: tuple[str, ...], free: int, text: str
) -> None:
    source = base(tmp_path / "base", special, more, free)
    torch.manual_seed(1)
    model = load_classifier(source, ("no", "yes"), torch.float32)
    published = tmp_path / "published"
    methods.save(model, published, "s3://m/base/", torch.float32)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            copyfile(source / name, published / name)
    padding.write_pad_token(published)

    tokenizer = AutoTokenizer.from_pretrained(published)
    plain = AutoModelForSequenceClassification.from_pretrained(published).eval()
    assert tokenizer.pad_token == text
    assert tokenizer.pad_token_id == plain.config.pad_token_id < plain.config.vocab_size
    with torch.no_grad():
        batch = plain(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
        for row, one in zip(batch, TEXTS, strict=True):
            ids = tokenizer(one, return_tensors="pt")
            assert torch.allclose(plain(**ids).logits[0], row, atol=1e-5)
            # Pooled at the last token of the text, whatever its number.
            hidden = plain.model(**ids).last_hidden_state[0, -1]
            assert torch.allclose(plain.score(hidden), row, atol=1e-5)


def test_a_tokenizer_without_any_special_token_is_padded_with_0(tmp_path: Path) -> None:
    assert padding.choose_pad_token(base(tmp_path, {})) == padding.PadToken(0, None)


@pytest.mark.parametrize("told", [None, 3, -1], ids=["none", "another", "no number of a token"])
def test_the_config_takes_the_padding_token_of_the_tokenizer(tmp_path: Path, told: int | None) -> None:
    folder = base(tmp_path, {**NONE, "pad_token": "[P]"})
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": told}))
    before = (folder / "tokenizer_config.json").read_bytes()
    padding.write_pad_token(folder)
    assert (folder / "tokenizer_config.json").read_bytes() == before
    assert (
        AutoConfig.from_pretrained(folder).pad_token_id == AutoTokenizer.from_pretrained(folder).pad_token_id
    )


def test_a_padding_token_that_position_numbers_depend_on_stays(tmp_path: Path) -> None:
    folder = base(tmp_path, {**NONE, "pad_token": "[P]"})
    told = {"model_type": "roberta", "vocab_size": 50, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps(told))
    padding.write_pad_token(folder)
    assert json.loads((folder / "config.json").read_bytes()) == told


def test_a_padding_token_without_a_row_in_the_embedding_stays_out_of_the_config(tmp_path: Path) -> None:
    folder = base(tmp_path, {**NONE, "pad_token": "[P]"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 5}))
    padding.write_pad_token(folder)
    assert "pad_token_id" not in json.loads((folder / "config.json").read_bytes())


def test_the_config_of_a_language_model_within_takes_the_padding_token_of_the_tokenizer(
    tmp_path: Path,
) -> None:
    folder = base(tmp_path, {**NONE, "pad_token": "[P]"})
    config, _ = bases.gemma3(pad_token_id=None)
    (folder / "config.json").write_text(json.dumps(config))
    padding.write_pad_token(folder)
    number = AutoTokenizer.from_pretrained(folder).pad_token_id
    assert AutoConfig.from_pretrained(folder).get_text_config().pad_token_id == number


def test_a_model_without_padding_token_stays_without(tmp_path: Path) -> None:
    folder = base(tmp_path, NONE)
    padding.write_pad_token(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None


@pytest.mark.parametrize(
    ("rows", "token"),
    [(320, padding.PadToken(7, "<pad>")), (7, padding.PadToken(6, "</s>"))],
    ids=["free row", "no free row"],
)
def test_the_rows_of_an_embedding_within_another_model_are_counted(
    tmp_path: Path, rows: int, token: padding.PadToken
) -> None:
    folder = base(tmp_path, NONE)
    config, _ = bases.gemma3(vocab_size=rows)
    (folder / "config.json").write_text(json.dumps(config))
    assert padding.choose_pad_token(folder) == token


def test_the_padding_token_of_a_language_model_within_another_model_is_published(tmp_path: Path) -> None:
    folder = base(tmp_path, NONE)
    config, _ = bases.gemma3(pad_token_id=7)
    (folder / "config.json").write_text(json.dumps(config))
    padding.write_pad_token(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == 7


def test_a_classifier_with_a_language_model_within_names_one_padding_token(tmp_path: Path) -> None:
    source, published = base(tmp_path / "base", NONE), tmp_path / "published"
    config, shapes = bases.gemma3(pad_token_id=None)
    bases.write(source, config, bases.weights(shapes))
    model = load_classifier(source, ("no", "yes"), torch.float32)
    methods.save(model, published, "s3://m/base/", torch.float32)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            copyfile(source / name, published / name)
    padding.write_pad_token(published)
    text = AutoConfig.from_pretrained(published).get_text_config()
    assert AutoTokenizer.from_pretrained(published).pad_token_id == text.pad_token_id == 7
