"""The arguments of the Trainer of transformers for a run."""

from transformers import TrainingArguments

from finetune_trainer.config import Training
from finetune_trainer.contract import Chosen
from finetune_trainer.models.dtypes import Dtypes
from finetune_trainer.training.deepspeed_config import deepspeed_config, engine_clip

_SCHEDULES = {"Linear": "linear", "Cosine": "cosine", "Constant": "constant_with_warmup"}


def arguments(
    chosen: Chosen,
    training: Training,
    dtypes: Dtypes,
    *,
    folder: str,
    gpus: bool,
    steps: int,
) -> TrainingArguments:
    """The arguments of Trainer.

    The arguments must exist before the model is loaded: they make transformers load the model in shards at
    ZeRO stage 3.

    Args:
        chosen: hyperparameters from Prepare.
        training: hyperparameters from the spec.
        dtypes: data types of weights and matrix products.
        folder: a scratch folder.
        gpus: whether the job uses GPUs.
        steps: number of optimizer steps of the run.
    """
    clip = engine_clip(chosen.zero_stage, training.max_gradient_norm)
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=chosen.epochs,
        # An item of the loader is one optimizer step, see loop.Loop.training_step.
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=chosen.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=round(training.warmup_fraction * steps),
        lr_scheduler_type=_SCHEDULES[training.schedule],
        max_grad_norm=clip,
        optim="adamw_torch_fused",
        seed=training.seed,
        use_cpu=not gpus,
        deepspeed=deepspeed_config(chosen, training, dtypes),
        activation_checkpointing=chosen.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        # transformers refuses a DeepSpeed configuration that differs from this argument.
        bf16=dtypes.weights == "bfloat16",
        label_names=["labels"],
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
