"""PURE: converts the rows of text classification to tokens."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from finetune_trainer.config import Run
from finetune_trainer.data import tokenise
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.rows import RowSubset
from finetune_trainer.data.shards import LABEL_FIELD, TOKENS_FIELD
from finetune_trainer.data.texts import describe_type, has_invalid_characters, normalise
from finetune_trainer.data.tokens import UntrainedMessages
from finetune_trainer.models.plan import AutoLimits
from finetune_trainer.tasks.text_classification.label_checks import check_labels
from finetune_trainer.tasks.text_classification.label_form import canonicalise

HEAD = "classification head"
SUITABLE = "an encoder such as bert, roberta, deberta-v2, distilbert or modernbert"
AUTO_LIMITS = AutoLimits(longest=512, percentile=99, tokens_at_once=None)
REFUSALS: Mapping[str, str] = {}
_EXCERPT = 60


@dataclass(frozen=True)
class LabelledText:
    """A usable row: a text and its label."""

    line: int
    text: str
    label: str
    """Name of the class in canonical form."""
    raw_stratum: str = field(default="", compare=False)
    """The label in the file; empty if the file contains the canonical form."""

    @cached_property
    def key(self) -> str:
        """The normalised text."""
        return normalise(self.text)

    @property
    def identity(self) -> str:
        """The normalised text, because equal texts are duplicates for any label."""
        return self.key

    @property
    def stratum(self) -> str:
        """The class."""
        return self.label

    @property
    def excerpt(self) -> str:
        """The start of the text."""
        return self.text[:_EXCERPT]


def model_types() -> frozenset[str]:
    """Returns the model types with a sequence classification head, except encoder-decoders.

    The head of an encoder-decoder requires the same number of end tokens in each row of a batch.
    """
    both = tokenise.model_types("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES")
    return tokenise.model_types("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES") - both


def example(line: int, values: Mapping[str, Any], run: Run) -> LabelledText | str:
    """Converts a row to text and label, or returns why the row cannot be used.

    A label can be a string, a number or a boolean, and is converted to canonical form.
    """
    columns = run.dataset.columns
    for column in (columns.text, columns.label):
        if column not in values:
            return f"has no {column!r}"
    text, label = values[columns.text], values[columns.label]
    if not isinstance(text, str):
        return f"{columns.text!r} is {describe_type(text)}, not a text"
    name, fault = _parse_label(label, columns.label)
    if fault:
        return fault
    text, raw_stratum = text.strip(), str(label)
    for column, value in ((columns.text, text), (columns.label, name)):
        if not value:
            return f"{column!r} is empty"
        if has_invalid_characters(value):
            return f"{column!r} holds a NUL or half a character"
    return LabelledText(line, text, name, "" if raw_stratum.strip() == name else raw_stratum)


def _parse_label(label: Any, column: str) -> tuple[str, str]:
    """Returns the canonical form of a label and the fault of a label; both are empty for an empty label."""
    if isinstance(label, list | dict):
        return "", f"{column!r} is {describe_type(label)}, not one label"
    try:
        name = canonicalise(label)
    except ValueError as error:
        return "", f"{column!r} is {error}"
    missing = not name and label is not None and str(label).strip()
    return name, f"{column!r} is NaN or invisible: a missing label" if missing else ""


def columns(run: Run) -> frozenset[str]:
    """Returns the columns of text and label."""
    return frozenset({run.dataset.columns.text, run.dataset.columns.label})


def missing_columns(present: Collection[str], run: Run) -> tuple[str, ...]:
    """Returns the columns of text and label that are not present."""
    columns = run.dataset.columns
    return tuple(name for name in (columns.text, columns.label) if name not in present)


def classes(strata: Collection[str]) -> tuple[str, ...]:
    """Returns all labels in code point order, so that the order of rows does not change the head."""
    return tuple(sorted(strata))


def schema() -> pa.Schema:
    """Returns the columns of tokens and class."""
    return pa.schema([TOKENS_FIELD, LABEL_FIELD])


def encode(tokenizer: Any, rows: Sequence[LabelledText], run: Run) -> list[Encoding]:
    """Tokenizes the texts, with special tokens and without truncation."""
    return [Encoding(ids) for ids in tokenise.encode(tokenizer, [row.text for row in rows])]


def truncate(
    tokenizer: Any, rows: Sequence[LabelledText], encoded: Sequence[Encoding], max_length: int
) -> list[Encoding]:
    """Tokenizes long texts again with truncation, which preserves the closing special tokens."""
    long = [number for number, row in enumerate(encoded) if len(row.ids) > max_length]
    again = tokenise.encode(tokenizer, [rows[number].text for number in long], max_length)
    shorter = dict(zip(long, map(Encoding, again), strict=True))
    return [shorter.get(number, row) for number, row in enumerate(encoded)]


def refusal(encoded: Encoding) -> None:
    """Returns None, because a truncated text keeps its label."""


def report_untrained(untrained: UntrainedMessages, name: SplitName, home: str) -> list[Finding]:
    """Returns no findings, because the task has no messages."""
    return []


def report_samples(
    tokenizer: Any, rows: Sequence[LabelledText], encoded: Sequence[Encoding], trained_tokens: int
) -> dict[str, Any]:
    """Returns no samples; the data report contains the counts of the labels."""
    return {}


def check_rows(splits: Mapping[SplitName, RowSubset], homes: Mapping[SplitName, str]) -> list[Finding]:
    """Checks whether a model can be trained and evaluated on the classes."""
    return check_labels(splits, homes)
