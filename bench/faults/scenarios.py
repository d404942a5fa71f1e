"""PURE. The trainings into which faults are injected, and their rows."""

import json
import random
from dataclasses import dataclass

from finetune_trainer.config import Lora, Method, Training
from finetune_trainer.contract import Task

_ROWS = 400
_BERT_WORDS = range(2, 50)
"""The vocabulary of tests.trainer.programs.tiny_bert is w2 to w49."""
_COLOURS = ("red", "green", "blue", "salt")


@dataclass(frozen=True)
class Scenario:
    """A training of a tiny model."""

    name: str
    """Short name, for `--scenarios`."""
    task: Task
    model: str
    """A folder of bench.faults.models."""
    method: Method
    zero_stage: int
    ranks: int
    later_ranks: int | None = None
    """Number of ranks of all attempts after the first; None: `ranks`."""
    bfloat16: bool = False
    epochs: int = 10

    @property
    def same_world(self) -> bool:
        """Whether all attempts have the same world size, so that the results must be equal."""
        return self.later_ranks in {None, self.ranks}

    def ranks_of(self, attempt: int) -> int:
        """Number of ranks of an attempt."""
        return self.later_ranks if self.later_ranks and attempt > 1 else self.ranks

    def __str__(self) -> str:
        method = "full" if self.method == "Full" else "LoRA"
        dtype = "bfloat16" if self.bfloat16 else "float32"
        world = f"{self.ranks} ranks" if self.ranks > 1 else "1 rank"
        later = f", then {self.later_ranks}" if self.later_ranks else ""
        task = self.task.removeprefix("Text").lower()
        return f"{task}, {method}, ZeRO {self.zero_stage}, {dtype}, {world}{later}"

    @property
    def training(self) -> Training:
        """The hyperparameters. The global batch of 8 rows is the same at every world size."""
        return Training(
            epochs=self.epochs,
            batch_size=8,
            micro_batch_size=2,
            learning_rate=0.01,
            head_init="Random",
            precision="BFloat16" if self.bfloat16 else "Float32",
        )

    @property
    def rows(self) -> bytes:
        """The rows as JSON Lines."""
        make = _classification if self.task == "TextClassification" else _generation
        drawn = random.Random(0)  # noqa: S311 - no secret
        return "".join(json.dumps(make(number, drawn)) + "\n" for number in range(_ROWS)).encode()


_LORA = Lora(rank=4, alpha=8)
SCENARIOS = (
    Scenario("zero0", "TextClassification", "bert", "Full", 0, 1),
    Scenario("zero1", "TextClassification", "bert", "Full", 1, 2),
    Scenario("zero3", "TextClassification", "bert", "Full", 3, 2),
    Scenario("lora", "TextGeneration", "llama", _LORA, 2, 2),
    Scenario("lora-bfloat16", "TextGeneration", "llama-bfloat16", _LORA, 2, 2, bfloat16=True),
    Scenario("fewer-ranks", "TextClassification", "bert", "Full", 1, 2, 1),
)
STOPPED = tuple(
    Scenario(f"stop-zero{stage}-{ranks}", "TextClassification", "bert", "Full", stage, ranks, epochs=50)
    for stage in range(4)
    for ranks in (2, 4)
)
"""The trainings that receive SIGTERM at random moments."""


def _classification(number: int, drawn: random.Random) -> dict[str, str]:
    """A text whose first word gives its class away."""
    label = number % 3
    # Two words encode the number of the row, so that no row repeats another.
    words = [_BERT_WORDS[label], _BERT_WORDS[number % 40], _BERT_WORDS[number // 40]]
    words += drawn.choices(_BERT_WORDS, k=5)
    return {"text": " ".join(f"w{word}" for word in words), "label": ("blue", "green", "red")[label]}


def _generation(number: int, drawn: random.Random) -> dict[str, str]:
    colour = drawn.choice(_COLOURS)
    return {"prompt": f"What goes with {colour} {number}?", "completion": f"{colour} and {number % 7}"}
