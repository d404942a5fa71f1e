"""The rows of the benchmark: short texts of four classes. The weights of a model decide the time."""

import json
import random

SPECIAL = ("<pad>", "<unk>")
WORDS = tuple(f"w{number}" for number in range(50))
CLASSES = 4
_WORDS_OF_A_ROW = 8


def make_rows(count: int) -> bytes:
    """Makes rows as JSON Lines.

    Args:
        count: number of rows.
    """
    drawn = random.Random(0)  # noqa: S311 - no secret
    rows = []
    for number in range(count):
        # The number makes each text unique, so that no row repeats another.
        digits = [WORDS[number // len(WORDS) ** power % len(WORDS)] for power in range(2)]
        words = [*digits, *drawn.choices(WORDS, k=_WORDS_OF_A_ROW - len(digits))]
        rows.append(json.dumps({"text": " ".join(words), "label": f"c{number % CLASSES}"}))
    return "\n".join(rows).encode() + b"\n"
