"""Text generation: cross entropy of the next token, predictions, and the base model as baseline."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from finetune_trainer.config import Training
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.models import generation_config
from finetune_trainer.models.collate import IGNORE_INDEX, lengths, measure_work
from finetune_trainer.models.cross_entropy import token_losses
from finetune_trainer.models.load import LOCAL, load_saved
from finetune_trainer.models.packing import Packing
from finetune_trainer.models.weights import full_shape
from finetune_trainer.tasks.base import (
    Baseline,
    Evaluate,
    EvaluationInputs,
    HeadStart,
    Numbers,
    OnProgress,
    Tensors,
)
from finetune_trainer.tasks.text_generation import language_model
from finetune_trainer.tasks.text_generation.baseline import BaseModel
from finetune_trainer.tasks.text_generation.collate import (
    count_rows,
    find_last_tokens,
    pack_rows,
    pad_rows,
    select_model_inputs,
)
from finetune_trainer.tasks.text_generation.generation import generate
from finetune_trainer.tasks.text_generation.record import NEW_TOKENS, extract_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

METRIC_CODE = f"3 {transformers.__version__} {torch.__version__}"
"""Version of the metrics. The versions of the libraries are included, because packing depends on them."""
FORWARD = language_model.FORWARD
_VERIFIED_BYTES = 16 * 1024 * 1024
_VERIFIED_TOKENS = 8192


def load(folder: Path, prepared: Prepared, dtype: torch.dtype) -> "PreTrainedModel":
    """Loads the base model as a language model.

    Raises:
        StageFailure: UserConfig, if the model is not a language model, or if weights are missing.
    """
    return language_model.load_language_model(folder, dtype)


def head(model: "PreTrainedModel") -> tuple[str, ...]:
    """Returns no modules, because the base model contains the head."""
    return ()


def load_published(folder: Path, base: Path | None, dtype: torch.dtype) -> torch.nn.Module:
    """Loads a tuned language model.

    Raises:
        StageFailure: Internal if the files do not make exactly this model.
    """
    return load_saved(transformers.AutoModelForCausalLM, folder, base, dtype)


def collate(split: Split, numbers: Numbers, pad_id: int, packing: Packing | None) -> Tensors:
    """Packs rows if packing is cheaper, otherwise pads rows; `labels` are the next tokens."""
    packed = packing is not None and packing.pays(measure_work(split, numbers))
    return (pack_rows if packed else pad_rows)(split, numbers, pad_id)


def loss_function(
    training: Training, prepared: Prepared, device: torch.device
) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Returns the cross entropy of each token."""
    return losses


def head_start(
    inputs: EvaluationInputs,
    training: Training,
    evaluate: Evaluate,
    on_progress: OnProgress,
) -> HeadStart | None:
    """Returns None, because a language model has no new head."""
    return None


def losses(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Computes the cross entropy of each label in order, 0 for IGNORE_INDEX, shape [labels]."""
    return token_losses(_select_logits(outputs, labels), labels.flatten())


def predict(network: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """Computes the sums of each row, float64, shape [rows, 3]; see metrics.Sums."""
    logits = _select_logits(network(**select_model_inputs(inputs), **FORWARD), inputs["labels"])
    labels, row_index = inputs["labels"].flatten(), inputs["row_index"].flatten()
    # All three columns are 0 for IGNORE_INDEX.
    columns = token_losses(logits, labels), labels != IGNORE_INDEX, logits.argmax(-1) == labels
    values = torch.stack([column.double() for column in columns], dim=1)
    sums = torch.zeros(count_rows(inputs), 3, dtype=torch.float64, device=logits.device)
    return sums.index_add_(0, row_index, values)


def logits(network: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """Computes the logits after the last token of each row, float32, shape [rows, vocabulary]."""
    given, ends = select_model_inputs(inputs), find_last_tokens(inputs)
    if "position_ids" in given:
        found: torch.Tensor = network(**{**given, "logits_to_keep": ends}, **FORWARD).logits[0]
    else:
        given.pop("logits_to_keep")
        found = network(**given, **FORWARD).logits[torch.arange(len(ends)), ends]
    return found.float()


def verified_rows(network: Any, split: Split) -> int:
    """Returns the number of rows with at most 16 MiB of logits and at most 8,192 tokens, at least 1."""
    vocabulary = full_shape(network.get_output_embeddings().weight)[0]
    by_tokens = _VERIFIED_TOKENS // int(lengths(split).max())
    return max(1, min(_VERIFIED_BYTES // (4 * vocabulary), by_tokens, len(split)))


def load_for_baseline(inputs: EvaluationInputs) -> torch.nn.Module:
    """Loads the base model."""
    return load(inputs.base, inputs.prepared, inputs.dtype)


def packing_of(network: Any) -> Packing | None:
    """Returns the cost model of packing; None if the model does not separate packed rows."""
    if not language_model.supports_packing(network):
        log.info("rows are padded: the model does not separate packed rows")
        return None
    return language_model.packing_of(network)


def measure_baseline(
    inputs: EvaluationInputs,
    baseline: Baseline,
    network: torch.nn.Module,
    evaluate: Evaluate,
    on_progress: OnProgress,
) -> BaseModel:
    """Measures the base model on the test rows, and generates samples."""
    sums = evaluate(partial(predict, network), inputs.prepared.test, on_progress, baseline.packing)
    return BaseModel(
        **dict(baseline),
        sums=tuple(tuple(row) for row in sums.tolist()),
        continuations=samples(inputs, network),
    )


def read_baseline(document: bytes) -> BaseModel:
    """Reads a stored baseline.

    Raises:
        ValidationError: the document is not a baseline of this task.
    """
    return BaseModel.model_validate_json(document)


def samples(inputs: EvaluationInputs, network: torch.nn.Module) -> tuple[str, ...]:
    """Generates texts for the prompts of the first test rows."""
    tokenizer = _load_tokenizer(inputs.base)
    given = [prompt for prompt, _ in extract_prompts(inputs.prepared.test)]
    ends = generation_config.find_end_tokens(inputs.base, tokenizer.eos_token_id)
    continuations = generate(network, given, ends, inputs.pad_id, NEW_TOKENS)
    return tuple(tokenizer.decode(ids, skip_special_tokens=True) for ids in continuations)


def _select_logits(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Returns the logits at the labels, shape [labels, vocabulary].

    Models without `logits_to_keep` return the logits of all positions; the labels belong to the last
    positions.
    """
    kept: torch.Tensor = outputs.logits[:, -labels.shape[-1] :]
    return kept.flatten(0, -2)


def _load_tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
