"""A run as one rank sees it, of which a test has only what it asks for."""

from dataclasses import fields
from typing import Any

from finetune_trainer.models.dtypes import Dtypes
from finetune_trainer.training.context import Context

FLOAT32 = Dtypes("float32", "float32", "float32")
"""The data types of a run without bfloat16."""


def context_with(**parts: Any) -> Context:
    """A Context of these parts; all others are None."""
    return Context(**{field.name: parts.get(field.name) for field in fields(Context)})
