"""Text generation: cross entropy of the next token, predictions, and the base model as baseline."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.nn.functional import cross_entropy

from finetune_trainer.config import Training
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.models.collate import IGNORE_INDEX, lengths, work_of
from finetune_trainer.models.load import LOCAL, load_saved, on
from finetune_trainer.models.packing import Packing
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
    last_tokens,
    model_inputs,
    pack_rows,
    pad_rows,
    row_count,
)
from finetune_trainer.tasks.text_generation.record import NEW_TOKENS, prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

METRIC_CODE = f"3 {transformers.__version__} {torch.__version__}"
"""Raised when the meaning of a metric changes. The libraries decide whether rows are kept apart."""
FORWARD = language_model.FORWARD
_VERIFIED_BYTES = 16 * 1024 * 1024
_VERIFIED_TOKENS = 8192


def load(folder: Path, prepared: Prepared) -> "PreTrainedModel":
    """The base model.

    Raises:
        StageFailure: UserConfig if it is no language model or weights are missing.
    """
    return language_model.load_language_model(folder)


def head(model: "PreTrainedModel") -> tuple[str, ...]:
    """None: what makes words of hidden states comes with the base model."""
    return ()


def load_published(folder: Path, base: Path | None) -> torch.nn.Module:
    """A tuned language model.

    Raises:
        StageFailure: Internal if the files do not make exactly this model.
    """
    return load_saved(transformers.AutoModelForCausalLM, folder, base)


def collate(split: Split, numbers: Numbers, pad_id: int, packing: Packing | None) -> Tensors:
    """Rows laid end to end where that pays, else padded; `labels` stand where they are predicted."""
    packed = packing is not None and packing.pays(work_of(split, numbers))
    return (pack_rows if packed else pad_rows)(split, numbers, pad_id)


def loss_function(training: Training, prepared: Prepared) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Cross entropy of each token that is learnt."""
    return losses


def head_start(
    inputs: EvaluationInputs,
    training: Training,
    evaluate: Evaluate,
    device: torch.device,
    on_progress: OnProgress,
) -> HeadStart | None:
    """None: a language model has no new head."""
    return None


def losses(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each token that is learnt."""
    there = labels.flatten() != IGNORE_INDEX
    logits = _kept(outputs, labels)
    return cross_entropy(logits, labels.flatten(), reduction="none", ignore_index=IGNORE_INDEX)[there]


def predict(network: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """Sums of each row, float64, shape [rows, 3]; see metrics.Sums."""
    logits = _kept(network(**model_inputs(inputs), **FORWARD), inputs["labels"])
    labels, row_index = inputs["labels"].flatten(), inputs["row_index"].flatten()
    there = labels != IGNORE_INDEX
    nll = cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE_INDEX)
    each = torch.stack([nll.double(), there.double(), (logits.argmax(-1) == labels).double()], dim=1)
    sums = torch.zeros(row_count(inputs), 3, dtype=torch.float64, device=logits.device)
    return sums.index_add_(0, row_index[there], each[there])


def logits(network: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """Logits after the last token of each row, float32, shape [rows, vocabulary]."""
    given, ends = model_inputs(inputs), last_tokens(inputs)
    if "position_ids" in given:
        found: torch.Tensor = network(**{**given, "logits_to_keep": ends}, **FORWARD).logits[0]
    else:
        given.pop("logits_to_keep")
        found = network(**given, **FORWARD).logits[torch.arange(len(ends)), ends]
    return found.float()


def verified_rows(network: Any, split: Split) -> int:
    """So many that their logits are at most 16 MiB, and their tokens at most 8,192."""
    vocabulary = int(network.get_output_embeddings().weight.shape[0])
    by_tokens = _VERIFIED_TOKENS // int(lengths(split).max())
    return max(1, min(_VERIFIED_BYTES // (4 * vocabulary), by_tokens, len(split)))


def load_for_baseline(inputs: EvaluationInputs, device: torch.device) -> torch.nn.Module:
    """The base model."""
    return on(device, load(inputs.base, inputs.prepared))


def packing_of(network: Any) -> Packing | None:
    """The cost of packed rows; None where the model mixes packed rows up."""
    if not language_model.supports_packing(network):
        log.info("rows are padded: the model mixes packed rows up")
        return None
    return language_model.packing_of(network)


def measure_baseline(
    inputs: EvaluationInputs,
    baseline: Baseline,
    network: torch.nn.Module,
    evaluate: Evaluate,
    on_progress: OnProgress,
) -> BaseModel:
    """The base model on the test rows, and its samples."""
    sums = evaluate(partial(predict, network), inputs.prepared.test, on_progress, baseline.packing)
    return BaseModel(
        **dict(baseline),
        sums=tuple(tuple(row) for row in sums.tolist()),
        continuations=samples(inputs, network),
    )


def read_baseline(document: bytes) -> BaseModel:
    """A stored measurement.

    Raises:
        ValidationError: it is none.
    """
    return BaseModel.model_validate_json(document)


def samples(inputs: EvaluationInputs, network: torch.nn.Module) -> tuple[str, ...]:
    """The texts that a model writes after the prompts of the first test rows."""
    tokenizer = _tokenizer(inputs.base)
    given = [prompt for prompt, _ in prompts(inputs.prepared.test)]
    ends = language_model.ends_of(inputs.base, tokenizer.eos_token_id)
    written = language_model.generate(network, given, ends, inputs.pad_id, NEW_TOKENS)
    return tuple(tokenizer.decode(ids, skip_special_tokens=True) for ids in written)


def _kept(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Logits at these labels, float32, shape [labels, vocabulary].

    The few models that know no `logits_to_keep` give all of a row, whose last ones these are.
    """
    kept: torch.Tensor = outputs.logits[:, -labels.shape[-1] :]
    return kept.float().flatten(0, -2)


def _tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
