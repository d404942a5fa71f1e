"""Text generation while it is learnt and measured: cross entropy of the next token, a base model to beat."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from pydantic import FiniteFloat
from torch.nn.functional import cross_entropy

from finetune_trainer.contract import Activity, Evaluation, MetricName
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.models.collate import IGNORE_INDEX, lengths, work_of
from finetune_trainer.models.load import LOCAL, load_saved, on
from finetune_trainer.models.packing import Packing
from finetune_trainer.tasks.base import Numbers, Predictions, Tensors
from finetune_trainer.tasks.bootstrap import ModelRole
from finetune_trainer.tasks.text_generation import facts as told
from finetune_trainer.tasks.text_generation import metrics, model
from finetune_trainer.tasks.text_generation.inputs import (
    Ids,
    last_tokens,
    model_inputs,
    pack_rows,
    pad_rows,
    row_count,
)
from finetune_trainer.tasks.text_generation.metrics import Sums
from finetune_trainer.training.baseline import Baseline, BaselineKey
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import from_first
from finetune_trainer.training.evaluate import over_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

METRIC_CODE = f"3 {transformers.__version__} {torch.__version__}"
"""Raised when the meaning of a metric changes. The libraries decide whether rows are kept apart."""
FORWARD = model.FORWARD
NEW_TOKENS = 64
_CONTINUED_ROWS = 5
_VERIFIED_BYTES = 16 * 1024 * 1024
_VERIFIED_TOKENS = 8192


class BaseModel(Baseline):
    """The base model's answers on the test rows, so that nobody has to compute them again."""

    sums: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...]
    """See metrics.Sums."""
    continuations: tuple[str, ...]
    """What it writes after the first test rows' prompts."""


def load(folder: Path, prepared: Prepared) -> "PreTrainedModel":
    """The base model.

    Raises:
        StageFailure: UserConfig if it is no language model or weights are missing.
    """
    return model.load_language_model(folder)


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


def losses(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each token that is learnt."""
    there = labels.flatten() != IGNORE_INDEX
    logits = _kept(outputs, labels)
    return cross_entropy(logits, labels.flatten(), reduction="none", ignore_index=IGNORE_INDEX)[there]


def predictions(network: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """Sums of each row, float64, shape [rows, 3]; see metrics.Sums."""
    logits = _kept(network(**model_inputs(inputs), **FORWARD), inputs["labels"])
    labels, paths = inputs["labels"].flatten(), inputs["row_index"].flatten()
    there = labels != IGNORE_INDEX
    nll = cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE_INDEX)
    each = torch.stack([nll.double(), there.double(), (logits.argmax(-1) == labels).double()], dim=1)
    sums = torch.zeros(row_count(inputs), 3, dtype=torch.float64, device=logits.device)
    return sums.index_add_(0, paths[there], each[there])


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


def measured(metric: MetricName, predictions: Predictions, split: Split, classes: int) -> float:
    """One metric of one model."""
    return metrics.measure(predictions.astype(np.float64))[metric]


def measure_baseline(
    context: Context, key: BaselineKey, on_progress: Callable[[float], None]
) -> BaseModel | None:
    """The base model on the test rows, and how it goes on after some of them."""
    base = on(context.gang.device, load(context.base, context.prepared))
    apart = bool(from_first(context.gang, model.supports_packing(base)))
    packing = model.packing_of(base) if apart else None
    if not apart:
        log.info("rows are padded: the model does not keep them apart when they are laid end to end")
    test = context.prepared.test
    sums = over_rows(context.packed_by(packing), partial(predictions, base), test, on_progress)
    if not context.gang.first:
        return None
    return BaseModel(
        key=key,
        test_rows=len(test),
        packing=packing,
        sums=tuple(tuple(row) for row in sums.tolist()),
        continuations=_continued(context, base),
    )


def read_baseline(document: bytes) -> BaseModel:
    """A stored measurement.

    Raises:
        ValidationError: it is none.
    """
    return BaseModel.model_validate_json(document)


def evaluation(context: Context, baseline: BaseModel, predictions: Predictions) -> Evaluation:
    """Base model and tuned model on the test rows."""
    run = context.config.run
    sums: dict[ModelRole, Sums] = {"baseline": _sums(baseline), "tuned": predictions.astype(np.float64)}
    return metrics.compare(
        sums,
        metrics=run.evaluation.metrics,
        primary=run.evaluation.primary_metric,
        seed=run.training.seed,
    )


def facts(
    context: Context, network: torch.nn.Module, baseline: BaseModel, predictions: Predictions, *, reused: bool
) -> dict[str, Any]:
    """What both models write after the first test rows' prompts."""
    test = context.prepared.test
    context.heartbeat.beat(Activity.EVALUATING_TUNED)
    tokenizer = _tokenizer(context)
    given = [
        (tokenizer.decode(prompt), tokenizer.decode(rest, skip_special_tokens=True))
        for prompt, rest in _prompts(test)
    ]
    return {
        "generation": told.GenerationFacts(
            test_tokens=int(predictions[:, metrics.TOKENS].sum()),
            packed=baseline.packing is not None,
            new_tokens=NEW_TOKENS,
            continuations=told.continuations(
                test.locations()[: len(given)], given, baseline.continuations, _continued(context, network)
            ),
            reused=reused,
        )
    }


def prediction_lines(context: Context, baseline: BaseModel, predictions: Predictions) -> Iterator[str]:
    """One JSON line a test row, with the sums of both models."""
    return told.prediction_lines(
        context.prepared.test.locations(), _sums(baseline), predictions.astype(np.float64)
    )


def _kept(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Logits at these labels, float32, shape [labels, vocabulary].

    The few models that know no `logits_to_keep` give all of a row, whose last ones these are.
    """
    kept: torch.Tensor = outputs.logits[:, -labels.shape[-1] :]
    return kept.float().flatten(0, -2)


def _continued(context: Context, network: torch.nn.Module) -> tuple[str, ...]:
    """What a model writes after the prompts of the first test rows; on one rank alone."""
    tokenizer = _tokenizer(context)
    prompts = [prompt for prompt, _ in _prompts(context.prepared.test)]
    ends = model.ends_of(context.base, tokenizer.eos_token_id)
    written = model.generate(network, prompts, ends, context.pad_id, NEW_TOKENS)
    return tuple(tokenizer.decode(ids, skip_special_tokens=True) for ids in written)


def _prompts(split: Split) -> list[tuple[Ids, Ids]]:
    """Of the first rows what comes before the first token that is learnt, and what is learnt there.

    Where nothing is given, as with raw text, the first half of the row.
    """
    found = []
    for number in range(min(_CONTINUED_ROWS, len(split))):
        span = slice(split.offsets[number], split.offsets[number + 1])
        ids, trained = split.tokens[span].astype(np.int64), split.loss_mask[span]
        start = int(trained.argmax())
        if start <= 1:
            start = max(1, len(ids) // 2)
        rest = trained[start:]
        end = start + (len(rest) if rest.all() else int(rest.argmin()))
        found.append((ids[:start], ids[start:end]))
    return found


def _tokenizer(context: Context) -> Any:
    return transformers.AutoTokenizer.from_pretrained(context.base, **LOCAL)


def _sums(baseline: BaseModel) -> Sums:
    return np.array(baseline.sums, dtype=np.float64)
