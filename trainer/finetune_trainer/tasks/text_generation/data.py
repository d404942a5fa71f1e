"""PURE: converts the rows of text generation to tokens with a loss mask."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from finetune_trainer.config import Run
from finetune_trainer.data import tokenise
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.rows import RowSubset
from finetune_trainer.data.shards import LOSS_MASK_FIELD, TOKENS_FIELD
from finetune_trainer.data.tokens import UntrainedMessages
from finetune_trainer.models.plan import AutoLimits
from finetune_trainer.tasks.text_generation import tokens
from finetune_trainer.tasks.text_generation.rows import Passage, parse_passage

HEAD = "language model head"
SUITABLE = "a decoder such as llama, mistral, qwen3, gemma3_text, phi3 or gpt2"
AUTO_LIMITS = AutoLimits(longest=2048, percentile=100, tokens_at_once=4096)
REFUSALS = {
    "ChatTemplateRefused": "are conversations that the tokenizer's chat template refuses",
    "NoTrainedTokens": "have no token left that is learnt: raise training.maxLength",
}
_SHOWN_TOKENS = 512


def model_types() -> frozenset[str]:
    """Returns the model types with a causal language model head only."""
    others = ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES")
    return tokenise.model_types("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES").difference(
        *map(tokenise.model_types, others)
    )


def example(line: int, values: Mapping[str, Any], run: Run) -> Passage | str:
    """Converts a row to a conversation, a prompt with completion, or raw text; or returns the fault."""
    return parse_passage(line, values, run.dataset.columns, run.training.train_on)


def columns(run: Run) -> frozenset[str]:
    """Returns the columns of the three kinds of rows."""
    names = run.dataset.columns
    return frozenset({names.messages, names.prompt, names.completion, names.text})


def missing_columns(present: Collection[str], run: Run) -> tuple[str, ...]:
    """Returns the missing columns; a file needs messages, or prompt and completion, or text."""
    columns = run.dataset.columns
    if columns.messages in present or columns.text in present:
        return ()
    pair = (columns.prompt, columns.completion)
    lacking = tuple(name for name in pair if name not in present)
    return lacking if len(lacking) < len(pair) else (columns.messages, columns.completion, columns.text)


def check_rows(splits: Mapping[SplitName, RowSubset], homes: Mapping[SplitName, str]) -> list[Finding]:
    """Returns no findings, because every usable row is suitable."""
    return []


def classes(strata: Collection[str]) -> tuple[str, ...]:
    """Returns no classes."""
    return ()


def schema() -> pa.Schema:
    """Returns the columns of tokens and loss mask."""
    return pa.schema([TOKENS_FIELD, LOSS_MASK_FIELD])


def encode(tokenizer: Any, rows: Sequence[Passage], run: Run) -> list[Encoding]:
    """Tokenizes rows without truncation, with the tokenizer's start tokens and an EOS that has loss.

    Raises:
        StageFailure: EosMissing, ChatTemplateMissing, ChatTemplateUnusable.
    """
    return tokens.encode_rows(tokenizer, rows, run.training.train_on)


def truncate(
    tokenizer: Any, rows: Sequence[Passage], encoded: Sequence[Encoding], max_length: int
) -> list[Encoding]:
    """Truncates the start of a prompt, so that the completion remains; truncates other rows at the end."""
    special_tokens = tokens.find_special_tokens(tokenizer)
    return [
        tokens.truncate_row(special_tokens, encoding, max_length, keeps_end=bool(row.prompt))
        for row, encoding in zip(rows, encoded, strict=True)
    ]


def refusal(encoded: Encoding) -> tuple[str, str] | None:
    """Refuses rows that the chat template refuses, and rows without a token that has loss."""
    if encoded.fault:
        return "ChatTemplateRefused", encoded.fault
    if encoded.loss_mask is None or not encoded.loss_mask.any():
        return "NoTrainedTokens", f"none of {len(encoded.ids)} tokens is learnt"
    return None


def report_untrained(untrained: UntrainedMessages, name: SplitName, home: str) -> list[Finding]:
    """Reports conversations in which only the last answer has loss."""
    if not untrained.rows:
        return []
    return [
        Finding(
            level="warning",
            code="LastAnswerOnly",
            message=f"Of {untrained.rows:,} {name} conversations of {home}, only the last answer is learnt,"
            f" and {untrained.messages:,} earlier answers are not: the tokenizer's chat template writes an"
            " earlier answer differently once other messages follow.",
            file=home,
            count=untrained.rows,
            lines=tuple(
                f"{line}: {messages} earlier answers are not learnt" for line, messages in untrained.first
            ),
        )
    ]


def report_samples(
    tokenizer: Any, rows: Sequence[Passage], encoded: Sequence[Encoding], trained_tokens: int
) -> dict[str, JsonValue]:
    """Returns the number of tokens with loss, and the tokens of the first rows."""
    return {
        "trainedTokens": trained_tokens,
        "samples": [
            {"line": str(row.line), "tokens": len(encoding.ids), "parts": _split_by_loss(tokenizer, encoding)}
            for row, encoding in zip(rows, encoded, strict=True)
        ],
    }


def _split_by_loss(tokenizer: Any, row: Encoding) -> list[JsonValue]:
    """Splits the text of a row, special tokens included, into segments with and without loss."""
    ids = row.ids[:_SHOWN_TOKENS]
    loss_mask = np.zeros(len(ids), dtype=np.bool_) if row.loss_mask is None else row.loss_mask[: len(ids)]
    edges = [0, *(np.flatnonzero(np.diff(loss_mask)) + 1).tolist(), len(ids)]
    return [
        {"text": tokenizer.decode(ids[start:end].tolist()), "trained": bool(loss_mask[start])}
        for start, end in pairwise(edges)
        if end > start
    ]
