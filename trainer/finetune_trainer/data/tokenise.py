"""Loads and calls the fast tokenizer of a model, without importing torch."""

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

_BATCH_TEXTS = 2048
_STDERR = 2
Ids = list[npt.NDArray[np.int32]]


def model_types(mapping: str) -> frozenset[str]:
    """Returns the model types of a table of transformers, such as MODEL_FOR_CAUSAL_LM_MAPPING_NAMES."""
    _block_torch_import()
    # Attribute access to the module would import torch. The import takes 2 s.
    tables = import_module("transformers.models.auto.modeling_auto")
    return frozenset(getattr(tables, mapping))


def load_tokenizer(folder: Path) -> Any:
    """Loads the fast tokenizer of a model folder without network access and without code of the folder.

    Raises:
        StageFailure: TokenizerCorrupt.
    """
    _block_torch_import()
    from transformers import AutoTokenizer  # noqa: PLC0415 - the import takes 2 s

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer("")
    except BaseException as error:  # a damaged file can raise any exception
        if isinstance(error, Exception) or _is_panic(error):
            raise corrupt_tokenizer(f"it cannot be loaded ({str(error)[:200]})") from error
        raise
    if not getattr(tokenizer, "is_fast", False):
        raise corrupt_tokenizer("it is no fast tokenizer")
    return tokenizer


def check_vocabulary(tokenizer: Any, vocabulary: int | None) -> None:
    """Checks that the embedding has a row for each token id.

    Args:
        tokenizer: the tokenizer of the model.
        vocabulary: number of rows of the embedding; None if unknown.

    Raises:
        StageFailure: TokenizerMismatch.
    """
    # The post-processor stores the ids of special tokens separately from the vocabulary.
    highest = max((*tokenizer.get_vocab().values(), *tokenizer("")["input_ids"]), default=0)
    if vocabulary is not None and highest >= vocabulary:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "TokenizerMismatch",
            f"The tokenizer has ids up to {highest}, the model's vocabulary ends at {vocabulary - 1}.",
            "Upload the tokenizer that belongs to this model.",
        )


def tokenize(tokenizer: Any, texts: Sequence[str], **options: Any) -> Any:
    """Calls a tokenizer with texts.

    Args:
        tokenizer: the tokenizer.
        texts: the texts.
        **options: keyword arguments of the tokenizer.

    Raises:
        StageFailure: TokenizerCorrupt, the tokenizer has no token for unknown words.
    """
    with _report_faults():
        return tokenizer(texts, verbose=False, **options)


@contextmanager
def _report_faults() -> Iterator[None]:
    """Converts errors of the Rust code of a tokenizer.

    Raises:
        StageFailure: TokenizerCorrupt.
    """
    try:
        with _discard_native_stderr():
            yield
    except BaseException as error:
        # Errors of the Rust code have the type Exception, and their messages can contain the text.
        if type(error) is Exception or _is_panic(error):
            raise corrupt_tokenizer(
                "it cannot read a text, perhaps for want of a token for unknown words"
            ) from None
        raise


@contextmanager
def _discard_native_stderr() -> Iterator[None]:
    """Discards the output of native code to standard error, because a Rust panic prints the text."""
    sys.stderr.flush()
    saved, devnull = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, _STDERR)
    try:
        yield
    finally:
        os.dup2(saved, _STDERR)
        os.close(saved)
        os.close(devnull)


def encode(tokenizer: Any, texts: Sequence[str], max_length: int | None = None) -> Ids:
    """Tokenizes texts, special tokens included.

    Args:
        tokenizer: the tokenizer.
        texts: the texts.
        max_length: maximum number of tokens of a text; None for no truncation.

    Returns:
        Token ids of each text, each of shape [tokens].

    Raises:
        StageFailure: TokenizerCorrupt.
    """
    encoded: Ids = []
    for start in range(0, len(texts), _BATCH_TEXTS):
        with _report_faults():
            # This call sets truncation and padding of the Rust tokenizer, which encodes on all cores.
            tokenizer("", padding=False, truncation=max_length is not None, max_length=max_length)
            batch = tokenizer.backend_tokenizer.encode_batch_fast(texts[start : start + _BATCH_TEXTS])
        encoded.extend(np.asarray(encoding.ids, dtype=np.int32) for encoding in batch)
    return encoded


def decode(tokenizer: Any, ids: npt.NDArray[np.int32]) -> str:
    """Converts token ids to text without special tokens. The text can differ from the original text."""
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True))


def _block_torch_import() -> None:
    """Prevents transformers from importing torch, which reduces the import time from 6 s to 2 s."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_NO_ADVISORY_WARNINGS="1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "torch" not in sys.modules:
        # An import of a module that is None fails, and transformers continues without torch.
        sys.modules["torch"] = None  # type: ignore[assignment]


def _is_panic(error: BaseException) -> bool:
    """Returns whether an exception is a Rust panic, whose type cannot be imported."""
    return type(error).__name__ == "PanicException"


def corrupt_tokenizer(what: str) -> StageFailure:
    """Returns the failure of a tokenizer that cannot be used."""
    return StageFailure(
        FailureClass.USER_CONFIG,
        "TokenizerCorrupt",
        f"The tokenizer beside the model cannot be used: {what}.",
        "Save it again with transformers, and upload tokenizer.json and tokenizer_config.json.",
    )
