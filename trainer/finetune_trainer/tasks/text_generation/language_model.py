"""Loads the base model as a language model, tests packing, and generates text."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.load import LOCAL, check_complete, unusable
from finetune_trainer.models.packing import Packing
from finetune_trainer.tasks.text_generation.collate import Ids, positions_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

FORWARD: dict[str, Any] = {"use_cache": False}
"""With a cache transformers would not keep rows apart that are laid end to end."""
_KIND = "a language model"
_SUITABLE = "a decoder such as Llama, Mistral, Qwen, Gemma or GPT-2"
_TRIED = (7, 5)
"""Tokens of the rows that a model is tried out with."""
_NOISE = 1e-4
"""Of the largest logit: what float32 makes of the same sum in another order. A leak is 1,000 times more."""


def load_language_model(folder: Path) -> "PreTrainedModel":
    """The base model, float32 (see text_classification.model), with all its weights from the files.

    Raises:
        StageFailure: UserConfig if it is no language model or weights are missing.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig  # noqa: PLC0415 - heavy

    try:
        load: Any = AutoModelForCausalLM.from_pretrained
        model, loaded = load(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **LOCAL
        )
    except (ValueError, OSError, KeyError) as error:
        raise unusable(folder, str(error), _KIND, _SUITABLE) from error
    check_complete(model, loaded, new_head=False)
    model.accepts_loss_kwargs = False
    # The base model's own generation_config.json is copied as it is; this one only has to be writable.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    return model  # type: ignore[no-any-return]


def supports_packing(model: "PreTrainedModel") -> bool:
    """Whether rows that are laid end to end get the logits that they have alone.

    Raises:
        StageFailure: UserConfig, it looks at tokens that are still to come: its loss would mean nothing.
    """
    random = np.random.default_rng(0)
    embeddings: Any = model.get_input_embeddings()
    vocabulary = embeddings.weight.shape[0]
    rows = [random.integers(0, vocabulary, count) for count in _TRIED]
    alone = [_logits(model, {"input_ids": torch.from_numpy(row)[None]}) for row in rows]
    shorter = _logits(model, {"input_ids": torch.from_numpy(rows[0][:-1])[None]})
    if not _same(shorter, alone[0][:-1]):
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ModelUnusable",
            f"model.uri: a model of type {model.config.model_type!r} sees the tokens that it is to predict",
            f"choose {_SUITABLE}",
        )
    kept = torch.arange(sum(_TRIED))
    try:
        packed = _logits(model, {**positions_of(rows), "logits_to_keep": kept})
    except (TypeError, ValueError, RuntimeError) as error:
        log.info("rows cannot be laid end to end for this model: %s", error)
        return False
    return _same(packed, torch.cat(alone))


def packing_of(model: "PreTrainedModel") -> Packing:
    """What laying rows end to end costs this model."""
    sizes: Any = model.config.get_text_config()
    embeddings: Any = model.get_input_embeddings()
    return Packing.of(
        hidden=sizes.hidden_size, layers=sizes.num_hidden_layers, vocabulary=embeddings.weight.shape[0]
    )


def ends_of(folder: Path, eos: int) -> list[int]:
    """Tokens that end a text: the tokenizer's EOS, and those of generation_config.json or else config.json.

    Chat models often end a turn with another token than a text, and only generation_config.json lists both.

    Args:
        folder: of the base model.
        eos: the tokenizer's EOS.
    """
    told: Any = None
    for name in ("generation_config.json", "config.json"):
        if told is None and (folder / name).is_file():
            told = json.loads((folder / name).read_bytes()).get("eos_token_id")
    ends = told if isinstance(told, list) else [told]
    return sorted({eos, *(end for end in ends if type(end) is int and end >= 0)})


def generate(
    model: torch.nn.Module, prompts: Sequence[Ids], ends: Sequence[int], pad_id: int, most: int
) -> list[Ids]:
    """How a model goes on after each prompt, greedily, up to one of the `ends` or `most` tokens."""
    from transformers import GenerationConfig  # noqa: PLC0415 - heavy

    how = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=most, do_sample=False, eos_token_id=list(ends), pad_token_id=pad_id, use_cache=True
    )
    write: Any = model.generate
    written = []
    for prompt in prompts:
        ids = torch.from_numpy(prompt)[None].to(next(model.parameters()).device)
        with torch.no_grad():
            whole = write(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=how)
        written.append(whole[0, ids.shape[1] :].cpu().numpy())
    return written


def _logits(model: "PreTrainedModel", inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of every token, shape [tokens, vocabulary]."""
    here = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    with torch.no_grad():
        found: torch.Tensor = model(**here, **FORWARD).logits[0].float()
    return found


def _same(some: torch.Tensor, others: torch.Tensor) -> bool:
    if some.shape != others.shape:
        return False
    return bool((some - others).abs().max() <= _NOISE * max(1.0, float(others.abs().max())))
