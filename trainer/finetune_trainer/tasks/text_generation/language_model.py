"""Loads the base model as a language model, and tests support for packing."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.load import LOCAL, check_complete, unusable_model
from finetune_trainer.models.packing import Packing
from finetune_trainer.models.weights import full_shape
from finetune_trainer.tasks.text_generation.collate import concatenate_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

FORWARD: dict[str, Any] = {"use_cache": False}
"""With a cache, transformers does not separate packed rows."""
_KIND = "a language model"
_SUITABLE = "a decoder such as Llama, Mistral, Qwen, Gemma or GPT-2"
_TEST_LENGTHS = (7, 5)
"""Number of tokens of each row of the packing test."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Rounding errors relative to the largest logit, by data type of the weights. In float32, attention between
rows changes logits 1,000 times more."""
_ROUNDING_SHARE = 0.1
"""Maximum difference of logits, relative to the change of logits by attention between rows."""


def load_language_model(folder: Path, dtype: torch.dtype) -> "PreTrainedModel":
    """Loads the base model as a language model.

    Args:
        folder: files of the base model.
        dtype: data type of all floating point parameters.

    Raises:
        StageFailure: UserConfig, if the model is not a language model, or if weights are missing.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig  # noqa: PLC0415 - heavy

    try:
        load: Any = AutoModelForCausalLM.from_pretrained
        model, loaded = load(folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL)
    except (ValueError, OSError, KeyError) as error:
        raise unusable_model(folder, str(error), _KIND, _SUITABLE) from error
    check_complete(model, loaded, new_head=False)
    # Train copies generation_config.json of the base model; transformers requires a valid config to save.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    return model  # type: ignore[no-any-return]


def supports_packing(model: "PreTrainedModel") -> bool:
    """Tests whether the logits of packed rows equal the logits of separate rows.

    Args:
        model: the language model.

    Raises:
        StageFailure: UserConfig, if the logits depend on later tokens.
    """
    random = np.random.default_rng(0)
    embeddings: Any = model.get_input_embeddings()
    vocabulary = full_shape(embeddings.weight)[0]
    rows = [random.integers(0, vocabulary, count) for count in _TEST_LENGTHS]
    alone = [_compute_logits(model, {"input_ids": torch.from_numpy(row)[None]}) for row in rows]
    shorter = _compute_logits(model, {"input_ids": torch.from_numpy(rows[0][:-1])[None]})
    if not _are_close(shorter, alone[0][:-1], _TOLERANCE[model.dtype]):
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ModelUnusable",
            f"model.uri: a model of type {model.config.model_type!r} sees the tokens that it is to predict",
            f"choose {_SUITABLE}",
        )
    kept = torch.arange(sum(_TEST_LENGTHS))
    try:
        packed = _compute_logits(model, {**concatenate_rows(rows), "logits_to_keep": kept})
    except (TypeError, ValueError, RuntimeError) as error:
        log.info("rows cannot be laid end to end for this model: %s", error)
        return False
    joined = None
    if model.dtype != torch.float32:
        joined = _compute_logits(model, {"input_ids": torch.from_numpy(np.concatenate(rows))[None]})
    return differ_by_rounding(packed, torch.cat(alone), joined)


def differ_by_rounding(found: torch.Tensor, expected: torch.Tensor, mixed: torch.Tensor | None) -> bool:
    """Returns whether rounding explains the difference of logits.

    With bfloat16 weights, rounding changes the logits almost as much as attention to tokens of other rows
    can. `found` must then be much nearer to `expected` than logits with such attention are.

    Args:
        found: logits of rows that share one input, float32.
        expected: logits of the same rows computed separately, of the same shape.
        mixed: logits if tokens attend to tokens of other rows or to padding, of the same shape; None with
            float32 weights.
    """
    if mixed is None:
        return _are_close(found, expected, _TOLERANCE[torch.float32])
    difference, change = ((logits - expected).abs().max() for logits in (found, mixed))
    return _are_close(found, expected, _TOLERANCE[torch.bfloat16]) and bool(
        difference <= _ROUNDING_SHARE * change
    )


def packing_of(model: "PreTrainedModel") -> Packing:
    """Returns the cost model of packing."""
    sizes: Any = model.config.get_text_config()
    embeddings: Any = model.get_input_embeddings()
    return Packing.of(
        hidden=sizes.hidden_size, layers=sizes.num_hidden_layers, vocabulary=full_shape(embeddings.weight)[0]
    )


def _compute_logits(model: "PreTrainedModel", inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Computes the logits of one row, shape [tokens, vocabulary]."""
    here = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    with torch.no_grad():
        found: torch.Tensor = model(**here, **FORWARD).logits[0].float()
    return found


def _are_close(some: torch.Tensor, others: torch.Tensor, tolerance: float) -> bool:
    if some.shape != others.shape:
        return False
    return bool((some - others).abs().max() <= tolerance * max(1.0, float(others.abs().max())))
