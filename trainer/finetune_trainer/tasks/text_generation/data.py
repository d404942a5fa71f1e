"""PURE: rows of text generation, from their columns to tokens of which some are learnt."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from finetune_trainer.config import Run
from finetune_trainer.data import tokenise
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.findings import LISTED, Finding, SplitName
from finetune_trainer.models.plan import AutoLimits
from finetune_trainer.tasks.text_generation import tokens
from finetune_trainer.tasks.text_generation.rows import Passage, passage

HEAD = "language model head"
SUITABLE = "a decoder such as llama, mistral, qwen3, gemma3_text, phi3 or gpt2"
AUTO = AutoLimits(longest=2048, percentile=100, tokens_at_once=4096)
_SHOWN_ROWS = 3
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


def absent(there: Collection[str], run: Run) -> tuple[str, ...]:
    """A file needs messages, or prompt and completion, or text."""
    columns = run.dataset.columns
    if columns.messages in there or columns.text in there:
        return ()
    pair = (columns.prompt, columns.completion)
    lacking = tuple(name for name in pair if name not in there)
    return lacking if len(lacking) < len(pair) else (columns.messages, columns.completion, columns.text)


def check_rows(
    splits: Mapping[SplitName, Sequence[Passage]],
    homes: Mapping[SplitName, str],
) -> list[Finding]:
    """Whatever can be read can be learnt."""
    return []


def classes(train: Sequence[Passage]) -> tuple[str, ...]:
    """There are none."""
    return ()


def labels(rows: Sequence[Passage], classes: Sequence[str]) -> npt.NDArray[np.int32]:
    """Zeros, shape [rows]."""
    return np.zeros(len(rows), dtype=np.int32)


def encode(tokenizer: Any, rows: Sequence[Passage], run: Run) -> list[Encoding]:
    """Each row whole, beginning as the tokenizer begins a text and ending with an EOS that is learnt.

    Raises:
        StageFailure: EosMissing, ChatTemplateMissing, ChatTemplateUnusable.
    """
    return tokens.encoded(tokenizer, rows, run.training.train_on)


def cut(
    tokenizer: Any, rows: Sequence[Passage], encoded: Sequence[Encoding], max_length: int
) -> list[Encoding]:
    """A prompt loses its beginning, so that the completion stays; all else loses its end."""
    marks = tokens.marks_of(tokenizer)
    return [
        tokens.shortened(marks, encoding, max_length, keeps_end=bool(row.prompt))
        for row, encoding in zip(rows, encoded, strict=True)
    ]


def check_encoded(
    splits: Mapping[SplitName, Sequence[Passage]],
    encoded: Mapping[SplitName, Sequence[Encoding]],
    homes: Mapping[SplitName, str],
) -> list[Finding]:
    """Every row must be one that the chat template takes, with something left to learn."""
    findings = []
    for name, rows in splits.items():
        pairs = list(zip(rows, encoded[name], strict=True))
        findings += _last_answers(pairs, name, homes[name])
        refused = [(row.line, encoding.fault) for row, encoding in pairs if encoding.fault]
        empty = [
            (row.line, f"none of {len(encoding.ids)} tokens is learnt")
            for row, encoding in pairs
            if not encoding.fault and (encoding.loss_mask is None or not encoding.loss_mask.any())
        ]
        for code, what, found in (
            ("ChatTemplateRefused", "are conversations that the tokenizer's chat template refuses", refused),
            ("NoTrainedTokens", "have no token left that is learnt: raise training.maxLength", empty),
        ):
            if found:
                findings.append(
                    Finding(
                        level="error",
                        code=code,
                        message=f"{len(found):,} {name} rows of {homes[name]} {what};"
                        f" the first: line {found[0][0]}.",
                        file=homes[name],
                        count=len(found),
                        lines=tuple(f"{line}: {why}" for line, why in found[:LISTED]),
                    )
                )
    return findings


def _last_answers(pairs: Sequence[tuple[Passage, Encoding]], name: str, home: str) -> list[Finding]:
    """Conversations of which only the last answer is learnt."""
    found = [(row.line, encoding.unlearnt) for row, encoding in pairs if encoding.unlearnt]
    if not found:
        return []
    return [
        Finding(
            level="warning",
            code="LastAnswerOnly",
            message=f"Of {len(found):,} {name} conversations of {home}, only the last answer is learnt, and"
            f" {sum(unlearnt for _, unlearnt in found):,} earlier answers are not: the tokenizer's chat"
            " template writes an earlier answer differently once other messages follow.",
            file=home,
            count=len(found),
            lines=tuple(
                f"{line}: {unlearnt} earlier answers are not learnt" for line, unlearnt in found[:LISTED]
            ),
        )
    ]


def shown(tokenizer: Any, rows: Sequence[Passage], encoded: Sequence[Encoding]) -> dict[str, JsonValue]:
    """How many tokens are learnt, and the first rows as the model reads them, so that a person can see."""
    loss_mask = sum(int(row.loss_mask.sum()) for row in encoded if row.loss_mask is not None)
    return {
        "trainedTokens": loss_mask,
        "samples": [
            {"line": str(row.line), "tokens": len(encoding.ids), "parts": _parts(tokenizer, encoding)}
            for row, encoding in zip(rows[:_SHOWN_ROWS], encoded, strict=False)
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
