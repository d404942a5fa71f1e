"""Finds the tokens that end a text, and writes these tokens to generation_config.json."""

import json
from pathlib import Path
from typing import Any

from finetune_trainer.models.model_check import text_config

FILE = "generation_config.json"


def find_end_tokens(folder: Path, eos: int) -> list[int]:
    """Returns the ids of the EOS tokens of the tokenizer and of generation_config.json, or else config.json.

    Chat models often end a turn with another token than the EOS token; only generation_config.json lists
    both.

    Args:
        folder: files of the model.
        eos: id of the EOS token of the tokenizer.
    """
    listed_ends = _read(folder / FILE).get("eos_token_id")
    if listed_ends is None:
        listed_ends = text_config(_read(folder / "config.json")).get("eos_token_id")
    ends = listed_ends if isinstance(listed_ends, list) else [listed_ends]
    return sorted({eos, *(end for end in ends if type(end) is int and end >= 0)})


def write_tokens(folder: Path) -> None:
    """Writes the tokens that end a text and the padding token to generation_config.json of a language model.

    A tuned model learns to end a text with the EOS token of the tokenizer. Servers such as vLLM stop at the
    tokens of generation_config.json. Other values of an existing file do not change.

    Args:
        folder: folder of a saved language model with tokenizer files.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    ends = find_end_tokens(folder, int(tokenizer.eos_token_id))
    given = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    known = {name: number for name, number in given.items() if number is not None}
    document = {**_read(folder / FILE), **known, "eos_token_id": ends if len(ends) > 1 else ends[0]}
    (folder / FILE).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def list_stop_texts(folder: Path) -> list[str]:
    """Returns the texts of the tokens that end a text.

    Args:
        folder: folder of a saved language model, after `write_tokens`.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    texts = tokenizer.convert_ids_to_tokens(find_end_tokens(folder, int(tokenizer.eos_token_id)))
    return [text for text in texts if text]


def _read(file: Path) -> dict[str, Any]:
    document = json.loads(file.read_bytes()) if file.is_file() else {}
    return document if isinstance(document, dict) else {}
