"""Loads and calls the fast tokenizer of the model, without torch."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure

_AT_ONCE = 2048
_STDERR = 2
Ids = list[npt.NDArray[np.int32]]


def model_types(mapping: str) -> frozenset[str]:
    """Model types of one of transformers' tables, such as MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES."""
    _without_torch()
    # By its name: as an attribute of its package it would ask for torch. 2 s, so data are checked first.
    tables = import_module("transformers.models.auto.modeling_auto")
    return frozenset(getattr(tables, mapping))


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder; no code of the folder is run, nothing is downloaded.

    Raises:
        StageFailure: TokenizerCorrupt.
    """
    _without_torch()
    from transformers import AutoTokenizer  # noqa: PLC0415 - 2 s; data are checked first

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer("")
    except BaseException as error:  # whatever a foreign file makes of it
        if isinstance(error, Exception) or _is_panic(error):
            raise _corrupt(f"it cannot be loaded ({str(error)[:200]})") from error
        raise
    if not getattr(tokenizer, "is_fast", False):
        raise _corrupt("it is no fast tokenizer")
    return tokenizer


def check_vocabulary(tokenizer: Any, vocabulary: int | None) -> None:
    """A token id beyond the embedding would end training with an index error (TokenizerMismatch)."""
    # What stands around every text is written in the tokenizer by number, whatever its vocabulary says.
    highest = max((*tokenizer.get_vocab().values(), *tokenizer("")["input_ids"]), default=0)
    if vocabulary is not None and highest >= vocabulary:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "TokenizerMismatch",
            f"The tokenizer has ids up to {highest}, the model's vocabulary ends at {vocabulary - 1}.",
            "Upload the tokenizer that belongs to this model.",
        )


def read(tokenizer: Any, texts: Sequence[str], **how: Any) -> Any:
    """What a tokenizer makes of some texts.

    Raises:
        StageFailure: TokenizerCorrupt, it has no token for what it does not know.
    """
    try:
        with _without_native_output():
            return tokenizer(texts, verbose=False, **how)
    except BaseException as error:
        # The library has no type of its own for what its Rust code reports, often with the text.
        if type(error) is Exception or _is_panic(error):
            raise _corrupt("it cannot read a text, perhaps for want of a token for unknown words") from None
        raise


@contextmanager
def _without_native_output() -> Iterator[None]:
    """Discards what native code writes to standard error: Rust code that gives up quotes the text there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(nowhere)


def encode(tokenizer: Any, texts: Sequence[str], max_length: int | None = None) -> Ids:
    """Token ids of each text, special tokens included, cut to `max_length` if given.

    Raises:
        StageFailure: TokenizerCorrupt.
    """
    encoded: Ids = []
    for start in range(0, len(texts), _AT_ONCE):
        batch = read(
            tokenizer,
            list(texts[start : start + _AT_ONCE]),
            add_special_tokens=True,
            padding=False,
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        encoded.extend(np.asarray(ids, dtype=np.int32) for ids in batch["input_ids"])
    return encoded


def decoded(tokenizer: Any, ids: npt.NDArray[np.int32]) -> str:
    """The text of a row as far as its tokens tell it: what the tokenizer made alike stays alike."""
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True))


def _without_torch() -> None:
    """Keeps transformers from importing torch, which no tokenizer needs: 2 s instead of 6."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_NO_ADVISORY_WARNINGS="1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "torch" not in sys.modules:
        # None makes every import of it fail; transformers then believes it is not installed.
        sys.modules["torch"] = None  # type: ignore[assignment]


def _is_panic(error: BaseException) -> bool:
    """Whether Rust code gave up, which is no Exception and has a type that nobody can import."""
    return type(error).__name__ == "PanicException"


def _corrupt(what: str) -> StageFailure:
    return StageFailure(
        FailureClass.USER_CONFIG,
        "TokenizerCorrupt",
        f"The tokenizer beside the model cannot be used: {what}.",
        "Save it again with transformers, and upload tokenizer.json and tokenizer_config.json.",
    )
