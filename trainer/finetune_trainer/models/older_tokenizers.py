"""Rewrites a tokenizer_config.json of transformers 5 so that transformers 4 reads the same tokenizer."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CONFIG = "tokenizer_config.json"
_FILES = ("config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
"""Files beside CONFIG that decide how transformers 5 reads a tokenizer."""
_GENERIC = "PreTrainedTokenizerFast"
"""The class of version 4 that takes everything from tokenizer.json."""
_UNKNOWN = frozenset({"TokenizersBackend", "PythonBackend", "SentencePieceBackend"})
"""Classes of version 5 that version 4 does not have."""
_REBUILDING = {
    "LlamaTokenizer": True,
    "CodeLlamaTokenizer": True,
    "GemmaTokenizer": True,
    "CohereTokenizer": True,
    "GPTNeoXTokenizer": False,
}
"""Classes of version 4 that replace the post-processor of tokenizer.json: whether they then begin a text with
BOS if `add_bos_token` is not set. Version 5 keeps the post-processor."""
_FLAGS = ("add_bos_token", "add_eos_token")
_TEXTS: tuple[tuple[str, ...], ...] = (("",), ("One text, 1 of 2.",), ("One text.", "Its pair."))


def convert(folder: Path) -> None:
    """Rewrites tokenizer_config.json with the words of transformers 4, which transformers 5 also reads.

    The function changes the file only if transformers 5 then reads the same tokenizer.

    Args:
        folder: folder of the saved model with the files of a fast tokenizer.
    """
    converted = _find_conversion(folder)
    if converted is not None:
        text = json.dumps(converted, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")


def is_readable(folder: Path) -> bool:
    """Returns whether transformers 4 reads the tokenizer of a folder after `convert`."""
    document = _read(folder)
    return not _needs_conversion(document, folder) or _find_conversion(folder) is not None


def _find_conversion(folder: Path) -> dict[str, Any] | None:
    """Returns the first conversion that transformers 5 reads like the file; None if there is none."""
    document = _read(folder)
    if not _needs_conversion(document, folder):
        return None
    before = _describe(folder)
    with TemporaryDirectory() as name:
        copy = Path(name)
        for file in _FILES:
            if (folder / file).is_file():
                (copy / file).symlink_to((folder / file).absolute())
        for converted in _list_conversions(document, folder):
            (copy / CONFIG).write_text(json.dumps(converted), encoding="utf-8")
            try:
                if _describe(copy) == before:
                    return converted
            except Exception:  # noqa: BLE001, S112 - tokenizer classes raise arbitrary exceptions
                continue
    return None


def _needs_conversion(document: dict[str, Any], folder: Path) -> bool:
    """Returns whether transformers 4 fails to read the file, or reads another tokenizer."""
    return (
        document.get("tokenizer_class") in _UNKNOWN
        or isinstance(document.get("extra_special_tokens"), list)
        or _rebuilds_otherwise(document, folder)
    )


def _rebuilds_otherwise(document: dict[str, Any], folder: Path) -> bool:
    """Returns whether transformers 4 replaces the post-processor by another post-processor."""
    name = str(document.get("tokenizer_class")).removesuffix("Fast")
    if name not in _REBUILDING or document.keys() & set(_FLAGS):
        return False
    tokenizer = _load(folder)
    replaced = [tokenizer.bos_token_id] if _REBUILDING[name] else []
    return bool(tokenizer("")["input_ids"] != replaced)


def _list_conversions(document: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Yields possible conversions, the most specific first."""
    converted = {name: value for name, value in document.items() if name != "extra_special_tokens"}
    extra = document.get("extra_special_tokens")
    if isinstance(extra, list):
        converted["additional_special_tokens"] = extra
    elif extra is not None:
        converted["extra_special_tokens"] = extra
    if document.get("tokenizer_class") in _UNKNOWN:
        converted["tokenizer_class"] = _GENERIC
    if not _rebuilds_otherwise(document, folder):
        yield converted
        return
    tokenizer = _load(folder)
    ids = tokenizer("")["input_ids"]
    flags = [tokenizer.bos_token_id in ids[:1], tokenizer.eos_token_id in ids[-1:]]
    yield {**converted, **dict(zip(_FLAGS, flags, strict=True))}
    yield {**converted, "tokenizer_class": _GENERIC}


def _describe(folder: Path) -> dict[str, Any]:
    """Describes a tokenizer as transformers 5 reads it: parts, special tokens, and ids of some texts."""
    tokenizer = _load(folder)
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    # Another post-processor with the same effect is as good.
    del parts["post_processor"]
    return {
        "parts": parts,
        "special": (tokenizer.special_tokens_map, sorted(tokenizer.all_special_tokens)),
        "sides": (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length),
        "inputs": tokenizer.model_input_names,
        "ids": [tokenizer(*texts).data for texts in _TEXTS],
    }


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _read(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    document = json.loads(file.read_bytes()) if file.is_file() else {}
    return document if isinstance(document, dict) else {}
