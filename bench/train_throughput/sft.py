"""TRL's SFTTrainer, in an environment of its own beside the same torch and transformers."""

import tempfile
from typing import Any

from datasets import Dataset  # type: ignore[import-not-found]
from transformers import AutoTokenizer, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

from bench.train_throughput.lesson import SEED, Lesson, Outcome, Rows
from bench.train_throughput.plain import load_plain_model, outcome, settings

BLOCK = 1024
"""Tokens of a packed block: TRL's default."""


def train(lesson: Lesson, callbacks: list[TrainerCallback]) -> Outcome:
    """Trains; `way` is `padded`, `paddingFree` (the rows of a batch end to end) or `packed` (in blocks)."""
    set_seed(SEED)
    rows = Rows.of(lesson).as_dicts(lesson.task)
    with tempfile.TemporaryDirectory() as folder:
        options = settings(lesson) | {
            # Its own defaults would compute twice, and in bfloat16.
            "gradient_checkpointing": False,
            "bf16": False,
            "packing": lesson.way == "packed",
            "padding_free": lesson.way != "padded",
            "max_length": BLOCK if lesson.way == "packed" else None,
        }
        trainer = _trainer(lesson, options, folder, rows, callbacks)
        if lesson.way == "packed":
            # As many blocks in a step as hold as many rows as the others' steps.
            blocks = max(1, round(len(trainer.train_dataset) * lesson.batch / lesson.count))
            shape = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": blocks}
            trainer = _trainer(lesson, options | shape, folder, rows, callbacks)
        return outcome(trainer)


def _trainer(
    lesson: Lesson,
    options: dict[str, Any],
    folder: str,
    rows: list[dict[str, Any]],
    callbacks: list[TrainerCallback],
) -> Any:
    return SFTTrainer(
        model=load_plain_model(lesson),
        args=SFTConfig(output_dir=folder, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(lesson.base),
        callbacks=callbacks,
    )
