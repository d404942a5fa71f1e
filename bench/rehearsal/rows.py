"""Rows of random words for a job of text generation."""

import json
import random

WORDS = tuple(f"w{number}" for number in range(1000))
"""The words of the tokenizer; each word is one token."""


def make_rows(count: int, tokens: int, seed: int) -> bytes:
    """Makes a JSONL file with prompts and completions of equal length.

    Args:
        count: number of rows.
        tokens: tokens of a row, with at most two special tokens.
        seed: seed of the words.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret
    words = (tokens - 2) // 2

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=words))

    rows = [{"prompt": text() + " ", "completion": text()} for _ in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
