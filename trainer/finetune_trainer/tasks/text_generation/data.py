"""PURE: rows of text generation, from columns to tokens with a loss mask."""

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
from finetune_trainer.tasks.text_generation.rows import Passage, passage

HEAD = "language model head"
SUITABLE = "a decoder such as llama, mistral, qwen3, gemma3_text, phi3 or gpt2"
AUTO = AutoLimits(longest=2048, percentile=100, tokens_at_once=4096)
REFUSALS = {
    "ChatTemplateRefused": "are conversations that the tokenizer's chat template refuses",
    "NoTrainedTokens": "have no token left that is learnt: raise training.maxLength",
}
_SHOWN_TOKENS = 512


def model_types() -> frozenset[str]:
    """Model types that write from left to right; what fills gaps or translates has other heads too."""
    others = ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES")
    return tokenise.model_types("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES").difference(
        *map(tokenise.model_types, others)
    )


def example(line: int, values: Mapping[str, Any], run: Run) -> Passage | str:
    """A conversation, a prompt with its completion, or a raw text; or why it is none."""
    return passage(line, values, run.dataset.columns, run.training.train_on)


def columns(run: Run) -> frozenset[str]:
    """The columns of the three kinds of rows."""
    names = run.dataset.columns
    return frozenset({names.messages, names.prompt, names.completion, names.text})


def missing_columns(present: Collection[str], run: Run) -> tuple[str, ...]:
    """A file needs messages, or prompt and completion, or text."""
    columns = run.dataset.columns
    if columns.messages in present or columns.text in present:
        return ()
    pair = (columns.prompt, columns.completion)
    lacking = tuple(name for name in pair if name not in present)
    return lacking if len(lacking) < len(pair) else (columns.messages, columns.completion, columns.text)


def check_rows(splits: Mapping[SplitName, RowSubset], homes: Mapping[SplitName, str]) -> list[Finding]:
    """Whatever can be read can be learnt."""
    return []


def classes(strata: Collection[str]) -> tuple[str, ...]:
    """There are none."""
    return ()


def schema() -> pa.Schema:
    """Tokens, and which of them are learnt."""
    return pa.schema([TOKENS_FIELD, LOSS_MASK_FIELD])


def encode(tokenizer: Any, rows: Sequence[Passage], run: Run) -> list[Encoding]:
    """Each row whole, beginning as the tokenizer begins a text and ending with an EOS that is learnt.

    Raises:
        StageFailure: EosMissing, ChatTemplateMissing, ChatTemplateUnusable.
    """
    return tokens.encoded(tokenizer, rows, run.training.train_on)


def truncate(
    tokenizer: Any, rows: Sequence[Passage], encoded: Sequence[Encoding], max_length: int
) -> list[Encoding]:
    """A prompt loses its beginning, so that the completion stays; all else loses its end."""
    marks = tokens.marks_of(tokenizer)
    return [
        tokens.shortened(marks, encoding, max_length, keeps_end=bool(row.prompt))
        for row, encoding in zip(rows, encoded, strict=True)
    ]


def refusal(encoded: Encoding) -> tuple[str, str] | None:
    """The chat template must take a row, and something must be left to learn."""
    if encoded.fault:
        return "ChatTemplateRefused", encoded.fault
    if encoded.loss_mask is None or not encoded.loss_mask.any():
        return "NoTrainedTokens", f"none of {len(encoded.ids)} tokens is learnt"
    return None


def report_untrained(untrained: UntrainedMessages, name: SplitName, home: str) -> list[Finding]:
    """Conversations of which only the last answer is learnt."""
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
    """How many tokens are learnt, and the first rows as the model reads them, so that a person can see."""
    return {
        "trainedTokens": trained_tokens,
        "samples": [
            {"line": str(row.line), "tokens": len(encoding.ids), "parts": _parts(tokenizer, encoding)}
            for row, encoding in zip(rows, encoded, strict=True)
        ],
    }


def _parts(tokenizer: Any, row: Encoding) -> list[JsonValue]:
    """A row's text, special tokens included, in pieces that are learnt or not."""
    ids = row.ids[:_SHOWN_TOKENS]
    loss_mask = np.zeros(len(ids), dtype=np.bool_) if row.loss_mask is None else row.loss_mask[: len(ids)]
    edges = [0, *(np.flatnonzero(np.diff(loss_mask)) + 1).tolist(), len(ids)]
    return [
        {"text": tokenizer.decode(ids[start:end].tolist()), "trained": bool(loss_mask[start])}
        for start, end in pairwise(edges)
        if end > start
    ]
