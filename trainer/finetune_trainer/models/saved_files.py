"""Completes the folder of a saved model with the files that other programs read beside the weights."""

from pathlib import Path

from finetune_trainer.models import generation_config, older_tokenizers, padding
from finetune_trainer.models.base_model import copy_files


def complete(folder: Path, base: Path, *, generates: bool) -> None:
    """Adds tokenizer, processor and generation files to a saved model.

    Args:
        folder: folder of the saved model with config.json.
        base: folder of the base model.
        generates: whether the model is a language model.
    """
    copy_files(base, folder)
    padding.write_pad_token(folder)
    older_tokenizers.convert(folder)
    if generates:
        generation_config.write_tokens(folder)
