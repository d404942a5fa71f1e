"""PURE: checks the labels of the rows of text classification."""

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from finetune_trainer.data.findings import MAX_LISTED, Finding, SplitName, warning
from finetune_trainer.data.groups import Groups
from finetune_trainer.data.rows import RowSubset
from finetune_trainer.tasks.text_classification.label_form import fold_label

_LABEL_CHARACTERS = 60
_SMALL_CLASS = 10
_IMBALANCE = 50
_MANY_CLASSES = 2
"""Minimum number of rows for each class; fewer rows suggest the wrong label column."""


def check_labels(splits: Mapping[SplitName, RowSubset], homes: Mapping[SplitName, str]) -> list[Finding]:
    """Checks whether a model can be trained and evaluated on the classes."""
    counts = Counter(splits["train"].counts())
    conflicts = _report_conflicts(splits, homes)
    if len(counts) < 2:  # noqa: PLR2004 - a choice needs two
        only = "only one label" if counts else "no label"
        single = Finding(
            level="error",
            code="SingleClass",
            message=f"The {len(splits['train']):,} training rows of {homes['train']} have {only}; "
            "at least two classes are needed.",
            file=homes["train"],
            lines=tuple(_format_class(label, counts[label]) for label in counts),
        )
        return [*conflicts, single]
    return [
        *conflicts,
        *_report_unseen_labels(splits, homes, counts),
        *_report_label_forms(splits["train"]),
        *_report_similar_labels(counts),
        *_report_imbalance(counts),
    ]


def _report_conflicts(splits: Mapping[SplitName, RowSubset], homes: Mapping[SplitName, str]) -> list[Finding]:
    """Reports texts that occur with more than one label in the files of a split."""
    files: dict[str, list[RowSubset]] = defaultdict(list)
    for name, part in splits.items():
        files[homes[name]].append(part)
    findings = []
    for file, parts in files.items():
        # Splits that are drawn from one file are subsets of the same rows.
        part = RowSubset(parts[0].rows, np.sort(np.concatenate([part.numbers for part in parts])))
        groups = Groups.of(part.keys)
        find_mixed = groups.find_mixed(part.strata)
        count = int(find_mixed.sum())
        if count:
            lines = tuple(
                ", ".join(f"{part.line(index)} is {part.stratum(index)[:40]!r}" for index in group[:4])
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


def _report_unseen_labels(
    splits: Mapping[SplitName, RowSubset], uris: Mapping[SplitName, str], known_labels: Counter[str]
) -> list[Finding]:
    """Reports held-out rows with a label that no training row has; the lines also show training labels."""
    findings = []
    folded_labels = {fold_label(label) for label in known_labels}
    for name in ("validation", "test"):
        part = splits[name]
        unseen = [label for label in part.counts() if label not in known_labels]
        if unseen:
            numbers = [part.rows.names.numbers[label] for label in unseen]
            rows = part.select(np.isin(part.strata, numbers))
            alike = sum(fold_label(label) in folded_labels for label in unseen)
            form = (
                f" {alike:,} of them differ only in their form (letter case, width, spaces, letters"
                " of another alphabet, format of a number) from labels of the training rows."
                if alike
                else ""
            )
            trained = [
                f"training label {_format_class(label, rows_)}"
                for label, rows_ in known_labels.most_common(MAX_LISTED // 2)
            ]
            where = ", ".join(str(rows.line(index)) for index in range(min(5, len(rows))))
            findings.append(
                Finding(
                    level="error",
                    code="LabelUnseen",
                    message=f"{len(rows):,} {name} rows of {uris[name]} have labels that no training row has"
                    f" ({len(unseen):,} different; line {where}).{form} The training rows have"
                    f" {len(known_labels):,} labels; the data report shows the labels of both.",
                    file=uris[name],
                    count=len(rows),
                    lines=(
                        *(
                            f"{rows.line(index)}: {rows.stratum(index)[:60]}"
                            for index in range(min(MAX_LISTED - len(trained), len(rows)))
                        ),
                        *trained,
                    ),
                )
            )
    return findings


def _report_label_forms(train: RowSubset) -> list[Finding]:
    """Reports classes whose label is written in several forms."""
    forms = {label: train.rows.count_forms(label) for label in sorted(_find_labels_with_forms(train))}
    several = {label: found for label, found in forms.items() if len(found) > 1}
    if not several:
        return []
    return [
        warning(
            "LabelForms",
            f"{len(several):,} of the labels are written in several forms, which count as one label.",
            (
                # ascii() shows characters that have no width or look alike.
                f"{label[:_LABEL_CHARACTERS]!r}: "
                + ", ".join(
                    f"{ascii(form)[:_LABEL_CHARACTERS]} {rows:,} times" for form, rows in found.most_common(5)
                )
                for label, found in several.items()
            ),
        )
    ]


def _find_labels_with_forms(train: RowSubset) -> set[str]:
    """Returns the training labels that a row of the files writes in another form."""
    names = train.rows.names.names
    return {names[number] for number, _ in train.rows.forms} & set(train.counts())


def _report_similar_labels(counts: Counter[str]) -> list[Finding]:
    """Reports labels that differ only in spelling, but are different classes."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        alike[fold_label(label)].append(label)
    return [
        warning(
            "LabelSpelling",
            f"{len(labels)} labels differ only in spelling, and are different classes.",
            (_format_class(label, counts[label], escape=not label.isascii()) for label in sorted(labels)),
        )
        for labels in alike.values()
        if len(labels) > 1
    ]


def _format_class(label: str, rows: int, *, escape: bool = False) -> str:
    """Formats a class and the number of its training rows; `escape` shows the code points of letters."""
    name = label[:_LABEL_CHARACTERS]
    return f"{name!r}{f' ({name!a})' if escape else ''}: {rows:,} training rows"


def _report_imbalance(counts: Counter[str]) -> list[Finding]:
    findings = []
    small = sorted(label for label, count in counts.items() if count < _SMALL_CLASS)
    if small:
        findings.append(
            warning(
                "SmallClass",
                f"{len(small)} {'class has' if len(small) == 1 else 'classes have'} fewer than {_SMALL_CLASS}"
                " training rows.",
                (_format_class(label, counts[label]) for label in small),
            )
        )
    (most, high), (least, low) = counts.most_common(1)[0], min(counts.items(), key=lambda item: item[1])
    if high > _IMBALANCE * low:
        findings.append(
            warning(
                "Imbalance",
                f"The largest class has {high:,} training rows, the smallest only {low:,}.",
                (_format_class(most, high), _format_class(least, low)),
            )
        )
    if len(counts) * _MANY_CLASSES > counts.total():
        findings.append(
            warning("ManyClasses", f"{len(counts):,} labels for {counts.total():,} rows: the label column?")
        )
    return findings
