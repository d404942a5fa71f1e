"""PURE: estimates the size of the files in the volumes of the pods of a job."""

from finetune_trainer.config import Lora, Method
from finetune_trainer.contract import WeightsDtype
from finetune_trainer.models.memory import ModelFacts

_GIB = 1024**3
_MARGIN = 1.1
"""Factor for temporary files of transfers, and for the space that a file system needs."""
_OTHER_FILES = 2 * _GIB
"""Tokenizer, tokenized rows, logs, and caches of the libraries."""


def estimate_scratch(facts: ModelFacts, method: Method, dtype: WeightsDtype) -> int:
    """Estimates the greatest size of the files in one volume of a Train or Publish pod, in bytes.

    The cache has the files of the base model. The scratch volume of Train has the saved model or adapter. The
    scratch volume of Publish has the same files, and a merged model.

    Args:
        facts: properties of the model.
        method: training method of the run.
        dtype: data type of the files.
    """
    size = 4 if dtype == "float32" else 2
    base, trained = size * facts.base_parameters, size * facts.trained
    adapter = isinstance(method, Lora)
    saved = trained if adapter else base
    merged = base if isinstance(method, Lora) and method.merge else 0
    return round(_MARGIN * max(base, saved + merged)) + _OTHER_FILES
