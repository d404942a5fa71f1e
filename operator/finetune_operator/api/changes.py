"""Marks on the fields of the spec: when a field may be changed, and which fields the spec digest leaves out.

A field carries its mark in its annotation, for example `suspend: Annotated[bool, Change.ALWAYS]`. The CEL
rule that freezes the spec, the sentence in `kubectl explain` and the exclusions of the spec digest follow
from the marks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from finetune_operator.api.fields import rule


class Change(StrEnum):
    """When a field may be changed. A mark holds for all fields below the marked one."""

    ALWAYS = "May be changed at any time."
    """The field does not affect the result: the spec digest leaves the field out."""
    UNTIL_TRAINING = "May be changed until training starts."
    """A change supersedes the attempt that was made for the old value."""


class Covered(Enum):
    """Fields that the spec digest covers through the run, not directly."""

    BY_THE_RUN = "run"
    """The run holds the field's value, or the default of the task. The spec digest leaves the field out, so
    that a job that writes the default and a job that leaves the field out have the same digest."""


class UnmarkedFieldError(TypeError):
    """A field of the spec has no mark."""


@dataclass(frozen=True)
class Marked:
    """A field with its mark."""

    path: str
    """Such as spec.training."""
    change: Change
    optional: tuple[str, ...]
    """The fields of the path that may be absent in a stored object: not required, and without a default."""


def changes(model: type[BaseModel]) -> tuple[Marked, ...]:
    """The marked fields of the spec's class.

    Raises:
        UnmarkedFieldError: neither a field nor a field above it has a mark.
    """
    return tuple(_marked(model, "spec", ()))


def frozen_rule(model: type[BaseModel]) -> JsonDict:
    """CEL: once a Train pod has run, the fields of the spec that are not marked ALWAYS keep their values."""
    fields = changes(model)
    kept = [_keeps(field) for field in fields if field.change is not Change.ALWAYS]
    *others, last = [field.path for field in fields if field.change is Change.ALWAYS]
    free = f"{', '.join(others)} and {last}" if others else last
    return rule(
        f"!has(oldSelf.status) || !has(oldSelf.status.trainingStartTime) || ({' && '.join(kept)})",
        f"training has started: only {free} may be changed; for anything else apply a job of another name",
        ".spec",
    )


def outside_digest(model: type[BaseModel]) -> dict[str, Any]:
    """The fields that the spec digest leaves out, as pydantic's `exclude`."""
    return dict(_outside_digest(model))


def _outside_digest(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if _mark(field) is Change.ALWAYS or Covered.BY_THE_RUN in field.metadata:
            yield name, True
        elif (inner := _model_of(field)) and (below := outside_digest(inner)):
            yield name, below


def _marked(model: type[BaseModel], path: str, optional: tuple[str, ...]) -> Iterator[Marked]:
    for name, field in model.model_fields.items():
        here, mark, inner = f"{path}.{field.alias or name}", _mark(field), _model_of(field)
        absent = optional if field.is_required() or field.default is not None else (*optional, here)
        if mark is not None:
            yield Marked(here, mark, absent)
        elif inner is not None:
            yield from _marked(inner, here, absent)
        else:
            raise UnmarkedFieldError(
                f"{here} has no mark: annotate {model.__name__}.{name}, or a field above it, with"
                " Change.ALWAYS or Change.UNTIL_TRAINING"
            )


def _keeps(field: Marked) -> str:
    """CEL: the field has the same value as before; a field that was absent stays absent.

    Written with has(): the API server estimates the cost of a comparison of optionals (`.?`) far too high.
    """
    same = f"self.{field.path} == oldSelf.{field.path}"
    if not field.optional:
        return same
    now, before = (" && ".join(f"has({own}.{p})" for p in field.optional) for own in ("self", "oldSelf"))
    return f"({now}) == ({before}) && (!({now}) || {same})"


def _mark(field: FieldInfo) -> Change | None:
    return next((m for m in field.metadata if isinstance(m, Change)), None)


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """The class of a field that holds an object."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
