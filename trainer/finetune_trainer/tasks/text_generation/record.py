"""The generator's part of the training record. Pure."""

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
"""Most tokens of a sample."""
SAMPLED_ROWS = 5
MOST_CHARACTERS = 2000
"""Of each text of a continuation."""


class Continuation(Model):
    """How a test row goes on, and how each model has it go on: greedy, at most `newTokens` tokens."""

    file: str
    """Path below the folder that all files of the test rows share."""
    line: PositiveInt
    """1-based, in this file."""
    prompt: str
    """What the models were given, special tokens included; the end of it, where it is long."""
    expected: str
    base: str
    tuned: str


class GenerationFacts(Model):
    """What the test rows hold, and what both models write."""

    test_tokens: PositiveInt
    """Trained tokens of the test rows: all metrics are means over them."""
    packed: bool
    """Whether rows were laid end to end where that is less work; never where the model mixes them up."""
    new_tokens: PositiveInt
    """Most tokens of a continuation."""
    continuations: tuple[Continuation, ...]
    reused: bool
    """Whether an earlier attempt had measured the base model."""


def lines(locations: Sequence[tuple[str, int]], base: Sums, tuned: Sums) -> Iterator[str]:
    """One JSON line a test row: the sums from which every metric is computed.

    Args:
        locations: file and 1-based line of each row.
        base: sums of the base model.
        tuned: sums of the tuned model.
    """
    for row, (file, line) in enumerate(locations):
        document: dict[str, str | float] = {"file": file, "line": line, "tokens": int(base[row, TOKENS])}
        for model, sums in (("base", base), ("tuned", tuned)):
            document |= {f"{model}Nll": float(sums[row, NLL]), f"{model}Hits": int(sums[row, HITS])}
        yield json.dumps(document, ensure_ascii=False)


def continuations(
    locations: Sequence[tuple[str, int]],
    given: Sequence[tuple[str, str]],
    base: Sequence[str],
    tuned: Sequence[str],
) -> tuple[Continuation, ...]:
    """Side by side what both models write.

    Args:
        locations: file and 1-based line of each.
        given: prompt and expected text of each.
        base: what the base model writes.
        tuned: what the tuned model writes.
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


def prompts(split: Split) -> list[tuple[Ids, Ids]]:
    """Of the first rows what comes before the first token that is learnt, and what is learnt there.

    Where nothing is given, as with raw text, the first half of the row.
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
