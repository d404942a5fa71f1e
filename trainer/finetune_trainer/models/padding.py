"""Chooses the padding token of a model, and writes the token to the tokenizer files and to config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.data.added_tokens import write_special_tokens
from finetune_trainer.models.model_check import PADDED_POSITIONS, text_config

NEW = "<pad>"
"""Text of a padding token that is added to a tokenizer."""
_UNUSED = ("reserved", "unused", "extra_id")
_LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


@dataclass(frozen=True)
class PadToken:
    """A padding token."""

    number: int
    text: str | None
    """None if the tokenizer has no suitable token: `number` is 0, and padding must be masked."""


def choose_pad_token(folder: Path) -> PadToken:
    """Returns the padding token of the tokenizer, or a token that texts are unlikely to contain.

    A decoder classifies at the last token that is not the padding token, so the padding token must not occur
    in texts. The candidates in order: a special token with `pad` in its name, a new token if the embedding
    has an unused row, a reserved special token, the unknown token of a tokenizer with byte fallback, the EOS
    token.

    Args:
        folder: folder of the base model.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL)
    if tokenizer.pad_token_id is not None:
        return PadToken(int(tokenizer.pad_token_id), str(tokenizer.pad_token))
    return _find_unused_token(tokenizer, folder) or _find_used_token(tokenizer)


def _find_unused_token(tokenizer: Any, folder: Path) -> PadToken | None:
    """Finds a token without another use."""
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, None}
    special = {
        token.content: number
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and token.content not in used
    }
    named = [name for name in special if "pad" in name.lower()]
    reserved = [name for name in special if any(part in name.lower() for part in _UNUSED)]
    count = len(tokenizer)
    if named:
        return PadToken(special[named[0]], named[0])
    if max(tokenizer.get_vocab().values(), default=-1) + 1 == count < _count_embedding_rows(folder):
        return PadToken(count, NEW)
    if reserved:
        # The last reserved token is the least likely to be in use.
        return PadToken(special[reserved[-1]], reserved[-1])
    return None


def _find_used_token(tokenizer: Any) -> PadToken:
    """Finds a token that also has another use."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if tokenizer.unk_token_id is not None and model.get("byte_fallback"):
        return PadToken(int(tokenizer.unk_token_id), str(tokenizer.unk_token))
    if tokenizer.eos_token_id is not None:
        return PadToken(int(tokenizer.eos_token_id), str(tokenizer.eos_token))
    return PadToken(0, None)


def write_pad_token(folder: Path) -> None:
    """Writes the same padding token to the tokenizer files and to config.json of a saved model.

    The token of the tokenizer decides. Without such a token, the token of config.json decides. If neither of
    them has a token, the function changes nothing.

    Args:
        folder: folder of a saved model with tokenizer files, which the function modifies.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    config = text_config(json.loads((folder / "config.json").read_bytes()))
    number = config.get("pad_token_id")
    tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL)
    if tokenizer.pad_token_id is not None:
        # The position numbers of some models depend on the padding token of config.json.
        movable = number is None or config.get("model_type") not in PADDED_POSITIONS
        if movable and number != tokenizer.pad_token_id < int(config.get("vocab_size") or 0):
            _write_config(folder / "config.json", int(tokenizer.pad_token_id))
        return
    if not isinstance(number, int) or number < 0:
        return
    text = tokenizer.convert_ids_to_tokens(number) if number < len(tokenizer) else NEW
    if text is None:
        return
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file() or name == "tokenizer_config.json":
            _update_json(folder / name, pad_token=text)
    if number >= len(tokenizer):
        write_special_tokens(folder, {str(text): number})


def _count_embedding_rows(folder: Path) -> int:
    """Returns the number of rows of the embedding."""
    config = folder / "config.json"
    document = json.loads(config.read_bytes()) if config.is_file() else {}
    return int(text_config(document).get("vocab_size") or 0)


def _write_config(file: Path, number: int) -> None:
    """Writes the padding token to a config and to the config of the language model within."""
    inner = json.loads(file.read_bytes()).get("text_config")
    nested = {"text_config": {**inner, "pad_token_id": number}} if isinstance(inner, dict) else {}
    _update_json(file, pad_token_id=number, **nested)


def _update_json(file: Path, **values: Any) -> None:
    document = json.loads(file.read_bytes()) if file.is_file() else {}
    file.write_text(json.dumps({**document, **values}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
