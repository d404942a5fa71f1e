"""PURE: splits the rows of the files into training, validation and test rows without a common text."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from finetune_trainer.config import Dataset
from finetune_trainer.contract import FailureClass
from finetune_trainer.data.doctor import overlap, without_overlap
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.rows import Part, Rows
from finetune_trainer.data.sameness import Sameness, repeated, sameness
from finetune_trainer.data.splitting import held_out
from finetune_trainer.failures import StageFailure

Splits = dict[SplitName, Part]


@dataclass(frozen=True)
class Partition:
    """The three splits."""

    splits: Splits
    left_out: int
    """Rows left out because their text is held out elsewhere."""
    findings: tuple[Finding, ...]


def partition(
    files: Mapping[SplitName, Rows], uris: Mapping[SplitName, str], dataset: Dataset, seed: int
) -> Partition:
    """Leaves out what overlaps, then draws the shares, both of the training rows: test, then validation.

    Held-out files are never made smaller for the training rows' sake; a text that is in both counts for test.

    Raises:
        StageFailure: SplitTooSmall (a share comes to no row), NoRows (none is left).
    """
    findings: list[Finding] = []
    nothing = Part(files["train"], np.zeros(0, np.uint32))
    test, validation = (files[name].whole() if name in files else nothing for name in ("test", "validation"))
    same = sameness(files["train"].whole(), [validation, test])
    for split, given in files.items():
        findings += repeated(given.whole(), same, uris[split])
    validation, out_of_validation = without_overlap(validation, [test], same)
    findings += overlap(out_of_validation, [test], uris.get("validation", ""), "validation", "test")
    train, out_of_train = without_overlap(files["train"].whole(), [validation, test], same)
    findings += overlap(out_of_train, [validation, test], uris["train"], "training", "validation or test")
    for name, rows in (("train", train), *_given(validation, test, dataset)):
        if not len(rows):
            raise StageFailure(
                FailureClass.USER_DATA,
                "NoRows",
                f"dataset.{name}: no row is left after those that are also held out were left out.",
                "Give each split texts of its own.",
            )
    total = len(train)
    if dataset.test.split is not None:
        train, test = _drawn(train, dataset.test.split, seed, "test", total, same)
    if dataset.validation.split is not None:
        train, validation = _drawn(train, dataset.validation.split, seed, "validation", total, same)
    return Partition(
        {"train": train, "validation": validation, "test": test},
        len(out_of_train) + len(out_of_validation),
        tuple(findings),
    )


def _given(validation: Part, test: Part, dataset: Dataset) -> list[tuple[str, Part]]:
    """The held-out splits that have a file of their own."""
    splits = (("validation", validation, dataset.validation), ("test", test, dataset.test))
    return [(name, rows) for name, rows, spec in splits if spec.split is None]


def _drawn(part: Part, share: float, seed: int, name: str, total: int, same: Sameness) -> tuple[Part, Part]:
    """What stays and what is held out, the share being of `total` rows."""
    questions = same.of(part)
    drawn = held_out(questions, part.strata, part.rows.names.names, min(1.0, share * total / len(part)), seed)
    if not drawn.any() or drawn.all():
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "SplitTooSmall",
            f"dataset.{name}.split: {share:g} of {total:,} training rows leaves no row on one of the sides."
            f" The rows differ in {len(np.unique(questions)):,} texts or prompts; rows with the"
            " same stay on one side.",
            "Take another share, more different rows, or a file of its own.",
        )
    return part.where(~drawn), part.where(drawn)
