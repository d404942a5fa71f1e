"""Tokenizers made here, of a few words; some of them are spoilt in their files."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401 - before transformers, which would otherwise do without it for good
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from finetune_trainer.contract import FailureClass
from finetune_trainer.data import tokenise
from finetune_trainer.failures import StageFailure
from finetune_trainer.tasks.text_generation import tokens

CLS, SEP, UNK = 2, 3, 1
WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, **{f"w{number}": number for number in range(4, 20)}}
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that puts [CLS] and [SEP] around a text, as transformers saves it."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - heavy

    folder = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))  # noqa: S106 - no password
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    PreTrainedTokenizerFast(tokenizer_object=words, **NAMES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(whole: Path) -> Any:
    return tokenise.load_tokenizer(whole)


@pytest.fixture
def changed(whole: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the same tokenizer with something else in its files."""

    def change(spoil: Change = id, **config: object) -> Path:
        for name, alter in (("tokenizer.json", spoil), ("tokenizer_config.json", lambda c: c.update(config))):
            document = json.loads((whole / name).read_text())
            alter(document)
            (tmp_path / name).write_text(json.dumps(document))
        return tmp_path

    return change


def ids(encoded: tokenise.Ids) -> list[list[int]]:
    return [row.tolist() for row in encoded]


def without_unknown(document: dict[str, Any]) -> None:
    del document["model"]["vocab"]["[UNK]"]
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] != "[UNK]"]


def test_special_tokens_stand_around_every_text_also_around_none(tokenizer: Any) -> None:
    found = tokenise.encode(tokenizer, ["w4 w5", "", "w6 elsewhere"])
    assert ids(found) == [[CLS, 4, 5, SEP], [CLS, SEP], [CLS, 6, UNK, SEP]]
    assert {row.dtype for row in found} == {np.dtype(np.int32)}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [None, 4, 6])
def test_tokens_are_those_of_a_call_of_the_tokenizer(whole: Path, side: str, max_length: int | None) -> None:
    tokenizer = tokenise.load_tokenizer(whole)
    tokenizer.truncation_side = side
    tokenizer(["w4", "w4 w5"], padding=True, truncation=True, max_length=3)
    texts = ["w4 w5 w6 w7", "", "w8 [SEP] w9 w4 w5 w6", "elsewhere"]
    expected = tokenizer(texts, truncation=max_length is not None, max_length=max_length)["input_ids"]
    assert ids(tokenise.encode(tokenizer, texts, max_length)) == expected


@pytest.mark.parametrize(
    ("most", "left"),
    [(None, [4, 5, 6, 7]), (7, [4, 5, 6, 7]), (6, [4, 5, 6, 7]), (5, [4, 5, 6]), (3, [4]), (2, [])],
)
def test_what_is_cut_keeps_its_last_special_token(tokenizer: Any, most: int | None, left: list[int]) -> None:
    assert ids(tokenise.encode(tokenizer, ["w4 w5 w6 w7"], most)) == [[CLS, *left, SEP]]


def test_no_texts_are_no_rows(tokenizer: Any) -> None:
    assert tokenise.encode(tokenizer, []) == []


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_many_texts_keep_their_order_and_none_is_lost(tokenizer: Any, more: int) -> None:
    words = [4 + number % 16 for number in range(tokenise._BATCH_TEXTS + more)]
    found = tokenise.encode(tokenizer, [f"w{word}" for word in words], 5)
    assert ids(found) == [[CLS, word, SEP] for word in words]


def test_the_cuts_and_the_padding_of_the_tokenizers_own_file_do_not_count(
    changed: Callable[..., Path],
) -> None:
    cuts = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    pads = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
    pads |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    folder = changed(lambda document: document.update(truncation=cuts, padding=pads), model_max_length=4)
    assert ids(tokenise.encode(tokenise.load_tokenizer(folder), ["w4 w5 w6 w7"])) == [[CLS, 4, 5, 6, 7, SEP]]


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer.json", None), ("tokenizer.json", b""), ("tokenizer.json", b'{"model": 1}')],
    ids=["missing", "empty", "other JSON"],
)
def test_files_that_make_no_tokenizer_are_refused(
    changed: Callable[..., Path], file: str, content: bytes | None
) -> None:
    folder = changed()
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    refused(lambda: tokenise.load_tokenizer(folder), "cannot be loaded")


def refused(act: Callable[[], object], says: str) -> None:
    with pytest.raises(StageFailure, match="TokenizerCorrupt") as caught:
        act()
    assert caught.value.failure is FailureClass.USER_CONFIG
    assert says in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        lambda document: document["post_processor"]["special_tokens"].clear(),
        lambda document: document["model"]["vocab"].update(w4=-1),
    ],
    ids=["panics when loaded", "panics at each text", "negative id"],
)
def test_a_file_that_makes_the_library_give_up_is_refused(
    changed: Callable[..., Path], spoil: Change
) -> None:
    refused(lambda: tokenise.load_tokenizer(changed(spoil)), "cannot be loaded")


def test_a_tokenizer_that_is_not_fast_is_refused(changed: Callable[..., Path]) -> None:
    refused(lambda: tokenise.load_tokenizer(changed(tokenizer_class="ByT5Tokenizer")), "no fast tokenizer")


def test_a_tokenizer_without_a_token_for_unknown_words_reads_what_it_knows(
    changed: Callable[..., Path],
) -> None:
    bare = tokenise.load_tokenizer(changed(without_unknown, unk_token=None))
    assert ids(tokenise.encode(bare, ["w4"])) == [[CLS, 4, SEP]]
    refused(lambda: tokenise.encode(bare, ["w4", "elsewhere"]), "cannot read a text")
    bare.eos_token = "[SEP]"  # noqa: S105 - no password
    refused(lambda: tokens.find_special_tokens(bare), "cannot read a text")


def test_a_library_that_gives_up_quotes_no_text(capfd: pytest.CaptureFixture[str]) -> None:
    class PanicException(BaseException):
        """As Rust code raises."""

    def panics(texts: list[str], **_: object) -> None:
        os.write(2, f"thread '<unnamed>' panicked: it is inside {texts[0]}".encode())
        raise PanicException(texts[0])

    with pytest.raises(StageFailure, match="TokenizerCorrupt") as caught:
        tokenise.tokenize(panics, ["my secret"])
    os.write(2, b"the end")
    assert "secret" not in caught.value.message
    assert caught.value.__suppress_context__
    assert capfd.readouterr().err == "the end"


def test_what_is_no_fault_of_the_tokenizer_is_not_called_one(tokenizer: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        tokenise.encode(tokenizer, [4])  # type: ignore[list-item]


def test_no_code_of_the_folder_is_run(changed: Callable[..., Path], tmp_path: Path) -> None:
    folder = changed(tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Own: pass\n")
    try:
        tokenise.load_tokenizer(folder)
    except StageFailure as failure:
        assert failure.reason == "TokenizerCorrupt"  # noqa: PT017 - or it is loaded without that code
    assert not ran.exists()


def test_the_last_id_must_be_one_of_the_models_vocabulary(tokenizer: Any) -> None:
    tokenise.check_vocabulary(tokenizer, 20)
    tokenise.check_vocabulary(tokenizer, None)
    with pytest.raises(StageFailure, match="TokenizerMismatch") as caught:
        tokenise.check_vocabulary(tokenizer, 19)
    assert caught.value.failure is FailureClass.USER_CONFIG
    assert "ids up to 19, the model's vocabulary ends at 18" in caught.value.message


def test_a_token_that_was_added_counts_for_the_vocabulary(tokenizer: Any) -> None:
    more = copy.deepcopy(tokenizer)
    more.add_special_tokens({"pad_token": "<unknown>"})
    with pytest.raises(StageFailure, match="ids up to 20"):
        tokenise.check_vocabulary(more, 20)


@pytest.mark.parametrize("number", [20, 4_000_000_000])
def test_a_special_token_beyond_the_vocabulary_is_found_though_no_word_has_its_id(
    changed: Callable[..., Path], number: int
) -> None:
    def misnumbered(document: dict[str, Any]) -> None:
        document["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [number]

    with pytest.raises(StageFailure, match=f"ids up to {number},"):
        tokenise.check_vocabulary(tokenise.load_tokenizer(changed(misnumbered)), 20)


def test_texts_that_the_tokenizer_makes_alike_are_decoded_alike_without_special_tokens(
    tokenizer: Any,
) -> None:
    one, other, none = tokenise.encode(tokenizer, ["w4  w5", "\tw4 w5 ", ""])
    assert tokenise.decode(tokenizer, one) == tokenise.decode(tokenizer, other) == "w4 w5"
    assert tokenise.decode(tokenizer, none) == ""


def test_model_types_are_those_that_have_the_head() -> None:
    found = tokenise.model_types("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES")
    assert {"bert", "roberta", "distilbert", "modernbert"} <= found
    assert not found & {"vit", "whisper"}
