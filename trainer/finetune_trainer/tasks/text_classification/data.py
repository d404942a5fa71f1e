"""PURE: rows of text classification: one text and one label."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_trainer.config import Run
from finetune_trainer.data import tokenise
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.findings import MAX_LISTED, Finding, SplitName, warning
from finetune_trainer.data.groups import Groups
from finetune_trainer.data.rows import RowSubset
from finetune_trainer.data.shards import LABEL_FIELD, TOKENS_FIELD
from finetune_trainer.data.texts import describe_type, has_invalid_characters, normalise
from finetune_trainer.data.tokens import UntrainedMessages
from finetune_trainer.models.plan import AutoLimits
from finetune_trainer.tasks.text_classification.label_form import canonical, look

HEAD = "classification head"
SUITABLE = "an encoder such as bert, roberta, deberta-v2, distilbert or modernbert"
AUTO = AutoLimits(longest=512, percentile=99, tokens_at_once=None)
REFUSALS: Mapping[str, str] = {}
_EXCERPT = 60
_SMALL_CLASS = 10
_IMBALANCE = 50
_MANY_CLASSES = 2
"""Fewer rows than this for each class look like labels that name the row."""


@dataclass(frozen=True)
class LabelledText:
    """A row that can be used."""

    line: int
    text: str
    label: str
    """Name of the class, in its canonical form."""
    written: str = field(default="", compare=False)
    """The label as its file has it; empty where this is the canonical form."""

    @cached_property
    def key(self) -> str:
        """What makes two texts the same: NFKC, case folded, white space as one space."""
        return normalise(self.text)

    @property
    def identity(self) -> str:
        """A text that occurs again repeats, whatever its label."""
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
    """Model types with a sequence classification head, except encoder-decoders.

    The head of an encoder-decoder reads the decoder at the last end token, of which each row of a batch must
    have the same number.
    """
    both = tokenise.model_types("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES")
    return tokenise.model_types("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES") - both


def example(line: int, values: Mapping[str, Any], run: Run) -> LabelledText | str:
    """Text and label of a row, or why it has none.

    A label may be a text, a number or a truth value, and gets its canonical form; a text must be a text.
    """
    columns = run.dataset.columns
    for column in (columns.text, columns.label):
        if column not in values:
            return f"has no {column!r}"
    text, label = values[columns.text], values[columns.label]
    if not isinstance(text, str):
        return f"{columns.text!r} is {describe_type(text)}, not a text"
    name, fault = _named_class(label, columns.label)
    if fault:
        return fault
    text, written = text.strip(), str(label)
    for column, value in ((columns.text, text), (columns.label, name)):
        if not value:
            return f"{column!r} is empty"
        if has_invalid_characters(value):
            return f"{column!r} holds a NUL or half a character"
    return LabelledText(line, text, name, "" if written.strip() == name else written)


def _named_class(label: Any, column: str) -> tuple[str, str]:
    """The canonical form of a label, or why there is none; both are empty for an empty label."""
    if isinstance(label, list | dict):
        return "", f"{column!r} is {describe_type(label)}, not one label"
    try:
        name = canonical(label)
    except ValueError as error:
        return "", f"{column!r} is {error}"
    missing = not name and label is not None and str(label).strip()
    return name, f"{column!r} is NaN or invisible: a missing label" if missing else ""


def columns(run: Run) -> frozenset[str]:
    """Text and label."""
    return frozenset({run.dataset.columns.text, run.dataset.columns.label})


def missing_columns(present: Collection[str], run: Run) -> tuple[str, ...]:
    """Both columns are needed."""
    columns = run.dataset.columns
    return tuple(name for name in (columns.text, columns.label) if name not in present)


def classes(strata: Collection[str]) -> tuple[str, ...]:
    """All labels, in the order of their code points: the same rows in another order give the same head."""
    return tuple(sorted(strata))


def schema() -> pa.Schema:
    """Tokens and class."""
    return pa.schema([TOKENS_FIELD, LABEL_FIELD])


def encode(tokenizer: Any, rows: Sequence[LabelledText], run: Run) -> list[Encoding]:
    """Each text whole, with the special tokens that the model wants around it."""
    return [Encoding(ids) for ids in tokenise.encode(tokenizer, [row.text for row in rows])]


def truncate(
    tokenizer: Any, rows: Sequence[LabelledText], encoded: Sequence[Encoding], max_length: int
) -> list[Encoding]:
    """The same with long texts encoded again, for the closing special tokens have to stay."""
    long = [number for number, row in enumerate(encoded) if len(row.ids) > max_length]
    again = tokenise.encode(tokenizer, [rows[number].text for number in long], max_length)
    shorter = dict(zip(long, map(Encoding, again), strict=True))
    return [shorter.get(number, row) for number, row in enumerate(encoded)]


def refusal(encoded: Encoding) -> None:
    """A text that was cut still has its label."""


def report_untrained(untrained: UntrainedMessages, name: SplitName, home: str) -> list[Finding]:
    """No messages are learnt."""
    return []


def report_samples(
    tokenizer: Any, rows: Sequence[LabelledText], encoded: Sequence[Encoding], trained_tokens: int
) -> dict[str, Any]:
    """What is learnt of a row is its label, which the report counts anyway."""
    return {}


def check_rows(splits: Mapping[SplitName, RowSubset], homes: Mapping[SplitName, str]) -> list[Finding]:
    """Whether the classes can be learnt and measured."""
    counts = Counter(splits["train"].counts())
    conflicts = _conflicting(splits, homes)
    if len(counts) < 2:  # noqa: PLR2004 - a choice needs two
        only = "only one label" if counts else "no label"
        single = Finding(
            level="error",
            code="SingleClass",
            message=f"The {len(splits['train']):,} training rows of {homes['train']} have {only}; "
            "at least two classes are needed.",
            file=homes["train"],
            lines=tuple(_named(label, counts[label]) for label in counts),
        )
        return [*conflicts, single]
    return [
        *conflicts,
        *_unseen(splits, homes, counts),
        *_forms(splits["train"]),
        *_spelling(counts),
        *_balance(counts),
    ]


def _conflicting(splits: Mapping[SplitName, RowSubset], homes: Mapping[SplitName, str]) -> list[Finding]:
    """Texts of a file that occur with more than one label."""
    files: dict[str, list[RowSubset]] = defaultdict(list)
    for name, part in splits.items():
        files[homes[name]].append(part)
    findings = []
    for file, parts in files.items():
        # Splits of one file are parts of the same rows.
        part = RowSubset(parts[0].rows, np.sort(np.concatenate([part.numbers for part in parts])))
        groups = Groups.of(part.keys)
        find_mixed = groups.find_mixed(part.strata)
        count = int(find_mixed.sum())
        if count:
            lines = tuple(
                ", ".join(f"{part.line(place)} is {part.stratum(place)[:40]!r}" for place in group[:4])
                for group in groups.list_members(find_mixed, MAX_LISTED)
            )
            findings.append(
                Finding(
                    level="warning",
                    code="ConflictingLabels",
                    message=f"{count:,} texts of {file} occur with more than one label.",
                    file=file,
                    count=count,
                    lines=lines,
                )
            )
    return findings


def _unseen(
    splits: Mapping[SplitName, RowSubset], uris: Mapping[SplitName, str], known: Counter[str]
) -> list[Finding]:
    """Held-out rows with a label that no training row has; the lines show the labels of both sides."""
    findings = []
    looks = {look(label) for label in known}
    for name in ("validation", "test"):
        part = splits[name]
        unseen = [label for label in part.counts() if label not in known]
        if unseen:
            numbers = [part.rows.names.numbers[label] for label in unseen]
            rows = part.select(np.isin(part.strata, numbers))
            alike = sum(look(label) in looks for label in unseen)
            form = (
                f" {alike:,} of them differ only in their form (letter case, width, spaces, format of a"
                " number) from labels of the training rows."
                if alike
                else ""
            )
            trained = [
                f"training label {_named(label, rows_)}"
                for label, rows_ in known.most_common(MAX_LISTED // 2)
            ]
            where = ", ".join(str(rows.line(place)) for place in range(min(5, len(rows))))
            findings.append(
                Finding(
                    level="error",
                    code="LabelUnseen",
                    message=f"{len(rows):,} {name} rows of {uris[name]} have labels that no training row has"
                    f" ({len(unseen):,} different; line {where}).{form} The training rows have {len(known):,}"
                    " labels; the data report shows the labels of both.",
                    file=uris[name],
                    count=len(rows),
                    lines=(
                        *(
                            f"{rows.line(place)}: {rows.stratum(place)[:60]}"
                            for place in range(min(MAX_LISTED - len(trained), len(rows)))
                        ),
                        *trained,
                    ),
                )
            )
    return findings


def _forms(train: RowSubset) -> list[Finding]:
    """Classes whose label the files write in several ways."""
    forms = {label: train.rows.count_forms(label) for label in sorted(_respelt(train))}
    several = {label: found for label, found in forms.items() if len(found) > 1}
    if not several:
        return []
    return [
        warning(
            "LabelForms",
            f"{len(several):,} of the labels are written in several forms, which count as one label.",
            (
                # ascii() shows characters that have no width or look alike.
                f"{label[:_EXCERPT]!r}: "
                + ", ".join(f"{ascii(form)[:_EXCERPT]} {rows:,} times" for form, rows in found.most_common(5))
                for label, found in several.items()
            ),
        )
    ]


def _respelt(train: RowSubset) -> set[str]:
    """Labels of the training rows that some row of the files writes in another form."""
    names = train.rows.names.names
    return {names[number] for number, _ in train.rows.forms} & set(train.counts())


def _spelling(counts: Counter[str]) -> list[Finding]:
    """Labels that look or mean the same, but are different classes."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        alike[look(label)].append(label)
    return [
        warning(
            "LabelSpelling",
            f"{len(labels)} labels differ only in spelling, and are different classes.",
            (_named(label, counts[label]) for label in sorted(labels)),
        )
        for labels in alike.values()
        if len(labels) > 1
    ]


def _named(label: str, rows: int) -> str:
    """A class in the report."""
    return f"{label[:_EXCERPT]!r}: {rows:,} training rows"


def _balance(counts: Counter[str]) -> list[Finding]:
    findings = []
    small = sorted(label for label, count in counts.items() if count < _SMALL_CLASS)
    if small:
        findings.append(
            warning(
                "SmallClass",
                f"{len(small)} {'class has' if len(small) == 1 else 'classes have'} fewer than {_SMALL_CLASS}"
                " training rows.",
                (_named(label, counts[label]) for label in small),
            )
        )
    (most, high), (least, low) = counts.most_common(1)[0], min(counts.items(), key=lambda item: item[1])
    if high > _IMBALANCE * low:
        findings.append(
            warning(
                "Imbalance",
                f"The largest class has {high:,} training rows, the smallest only {low:,}.",
                (_named(most, high), _named(least, low)),
            )
        )
    if len(counts) * _MANY_CLASSES > counts.total():
        findings.append(
            warning("ManyClasses", f"{len(counts):,} labels for {counts.total():,} rows: the label column?")
        )
    return findings
