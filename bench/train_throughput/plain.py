"""Hugging Face's Trainer as its documentation shows it: rows shuffled, padded to the longest of a batch."""

import tempfile
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from bench.train_throughput.lesson import (
    MOST_GRADIENT_NORM,
    SEED,
    WEIGHT_DECAY,
    Lesson,
    Outcome,
    Rows,
)


def train(lesson: Lesson, callbacks: list[TrainerCallback]) -> Outcome:
    """Trains; `way` is `padded` or `flattened` (the rows of a pass end to end)."""
    set_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(lesson.base)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=load_plain_model(lesson),
            args=TrainingArguments(output_dir=folder, **settings(lesson)),
            train_dataset=Rows.of(lesson).as_dicts(lesson.task),
            data_collator=_collator(lesson, tokenizer),
            callbacks=callbacks,
        )
        return outcome(trainer)


def settings(lesson: Lesson) -> dict[str, Any]:
    """What all that are built on Trainer are told; our own says the same in other places."""
    return {
        "num_train_epochs": lesson.epochs,
        "per_device_train_batch_size": lesson.micro_batch,
        "gradient_accumulation_steps": lesson.accumulation,
        "learning_rate": lesson.learning_rate,
        "weight_decay": WEIGHT_DECAY,
        "warmup_steps": lesson.warmup_steps,
        "lr_scheduler_type": "linear",
        "max_grad_norm": MOST_GRADIENT_NORM,
        "optim": "adamw_torch_fused",
        "seed": SEED,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def load_plain_model(lesson: Lesson) -> Any:
    """Loads the model in float32; a new head for as many classes as the rows have."""
    if lesson.task == "TextGeneration":
        model = AutoModelForCausalLM.from_pretrained(lesson.base, dtype="float32")
        model.config.use_cache = False
        return model
    classes = int(Rows.of(lesson).labels.max()) + 1
    return AutoModelForSequenceClassification.from_pretrained(
        lesson.base, dtype="float32", num_labels=classes
    )


def outcome(trainer: Trainer) -> Outcome:
    """Trains and reads the log."""
    loss = trainer.train().training_loss
    norms = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
    return Outcome(loss=float(loss), gradient_norm=float(norms[-1]))


def _collator(lesson: Lesson, tokenizer: Any) -> Any:
    if lesson.way == "flattened":
        return DataCollatorWithFlattening()  # type: ignore[no-untyped-call]
    if lesson.task == "TextGeneration":
        return DataCollatorForSeq2Seq(tokenizer)
    return DataCollatorWithPadding(tokenizer)
