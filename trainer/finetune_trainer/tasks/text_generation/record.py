"""PURE: the part of the training record for text generation."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import PositiveInt

from finetune_trainer.contract import Model
from finetune_trainer.data.shards import Split
from finetune_trainer.tasks.text_generation.metrics import HITS, NLL, TOKENS, Sums

Ids = npt.NDArray[np.int64]
NEW_TOKENS = 64
"""Maximum number of tokens of a sample."""
SAMPLED_ROWS = 5
MOST_CHARACTERS = 2000
"""Maximum number of characters of each text in a Continuation."""


class Continuation(Model):
    """The continuation of a test row, and the greedy continuation of each model."""

    file: str
    """Path below the folder that all files of the test rows share."""
    line: PositiveInt
    """1-based line in the file."""
    prompt: str
    """The last MOST_CHARACTERS of the prompt, special tokens included."""
    expected: str
    base: str
    tuned: str


class GenerationFacts(Model):
    """Facts about the test rows, and the texts of both models."""

    test_tokens: PositiveInt
    """Number of tokens with loss in the test rows; all metrics are means over these tokens."""
    packed: bool
    """Whether rows are packed if packing is cheaper."""
    new_tokens: PositiveInt
    """Maximum number of tokens of a continuation."""
    continuations: tuple[Continuation, ...]
    reused: bool
    """Whether an earlier attempt measured the base model."""


def format_prediction_lines(locations: Sequence[tuple[str, int]], base: Sums, tuned: Sums) -> Iterator[str]:
    """Yields one JSON line for each test row, with the sums from which all metrics can be computed.

    Args:
        locations: file and 1-based line of each row.
        base: sums of the base model, shape [rows, 3].
        tuned: sums of the tuned model, shape [rows, 3].
    """
    for row, (file, line) in enumerate(locations):
        document: dict[str, str | float] = {"file": file, "line": line, "tokens": int(base[row, TOKENS])}
        for model, sums in (("base", base), ("tuned", tuned)):
            document |= {f"{model}Nll": float(sums[row, NLL]), f"{model}Hits": int(sums[row, HITS])}
        yield json.dumps(document, ensure_ascii=False)


def build_continuations(
    locations: Sequence[tuple[str, int]],
    given: Sequence[tuple[str, str]],
    base: Sequence[str],
    tuned: Sequence[str],
) -> tuple[Continuation, ...]:
    """Builds the continuations of both models.

    Args:
        locations: file and 1-based line of each row.
        given: prompt and expected text of each row.
        base: text that the base model generates for each row.
        tuned: text that the tuned model generates for each row.
    """
    return tuple(
        Continuation(
            file=file,
            line=line,
            prompt=prompt[-MOST_CHARACTERS:],
            expected=expected[:MOST_CHARACTERS],
            base=before[:MOST_CHARACTERS],
            tuned=after[:MOST_CHARACTERS],
        )
        for (file, line), (prompt, expected), before, after in zip(locations, given, base, tuned, strict=True)
    )


def extract_prompts(split: Split) -> list[tuple[Ids, Ids]]:
    """Returns prompt and completion of the first SAMPLED_ROWS rows as token ids.

    The prompt ends before the first token with loss. If a row has no prompt, as raw text, the prompt is the
    first half of the row.
    """
    found = []
    for number in range(min(SAMPLED_ROWS, len(split))):
        span = slice(split.offsets[number], split.offsets[number + 1])
        ids, trained = split.tokens[span].astype(np.int64), split.loss_mask[span]
        start = int(trained.argmax())
        if start <= 1:
            start = max(1, len(ids) // 2)
        rest = trained[start:]
        end = start + (len(rest) if rest.all() else int(rest.argmin()))
        found.append((ids[:start], ids[start:end]))
    return found
