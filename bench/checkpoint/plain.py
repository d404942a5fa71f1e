"""`python -m bench.checkpoint.plain BASE METHOD FOLDER RESULT ROUNDS`: checkpoints of Hugging Face's Trainer.

Trainer saves model, optimizer, schedule and random state to a local folder, and waits for the end. The result
is JSON with the seconds of each checkpoint but the first.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, set_seed
from transformers.utils import logging

from bench.checkpoint.rows import CLASSES


class Timed(Trainer):
    """A Trainer that measures its checkpoints."""

    seconds: list[float]

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        began = time.monotonic()
        super()._save_checkpoint(*arguments, **named)
        self.seconds.append(time.monotonic() - began)


def main() -> None:
    """Trains and measures."""
    base, method, folder, result, rounds = sys.argv[1:6]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    set_seed(0)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, dtype="float32", num_labels=CLASSES)
    if method == "LoRA":
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="SEQ_CLS"))
    tokens = torch.arange(2, 10)
    rows = [{"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": 0}] * 64
    trainer = Timed(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            max_steps=int(rounds) + 1,
            per_device_train_batch_size=4,
            optim="adamw_torch_fused",
            use_cpu=True,
            save_strategy="steps",
            save_steps=1,
            save_total_limit=1,
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows,
    )
    trainer.seconds = []
    trainer.train()
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    Path(result).write_text(json.dumps({"seconds": trainer.seconds[1:], "bytes": size}))


if __name__ == "__main__":
    main()
