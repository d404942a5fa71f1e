"""PURE: splits rows into training, validation and test rows that have no text in common."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from finetune_trainer.config import Dataset
from finetune_trainer.contract import FailureClass
from finetune_trainer.data.data_checks import report_overlap, separate_overlap
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.grouping import Grouping, choose_grouping, report_frequent_prompts
from finetune_trainer.data.rows import Rows, RowSubset
from finetune_trainer.data.splitting import draw_held_out
from finetune_trainer.failures import StageFailure

Splits = dict[SplitName, RowSubset]


@dataclass(frozen=True)
class Partition:
    """The three splits."""

    splits: Splits
    left_out: int
    """Number of rows omitted because a held-out split has the same text."""
    findings: tuple[Finding, ...]


def partition(
    files: Mapping[SplitName, Rows], uris: Mapping[SplitName, str], dataset: Dataset, seed: int
) -> Partition:
    """Omits overlapping rows, then draws the test rows and the validation rows that have no file.

    Rows of training files are omitted if a held-out file has the same text, and rows of validation files if a
    test file has the same text.

    Args:
        files: rows of the files of each split.
        uris: name of the files of each split, for findings.
        dataset: files and shares of the splits.
        seed: seed of the run.

    Raises:
        StageFailure: SplitTooSmall (a share has no rows), NoRows (no row of a split remains).
    """
    findings: list[Finding] = []
    nothing = RowSubset(files["train"], np.zeros(0, np.uint32))
    test, validation = (
        files[name].all_rows() if name in files else nothing for name in ("test", "validation")
    )
    same = choose_grouping(files["train"].all_rows(), [validation, test])
    for split, given in files.items():
        findings += report_frequent_prompts(given.all_rows(), same, uris[split])
    validation, out_of_validation = separate_overlap(validation, [test], same)
    findings += report_overlap(out_of_validation, [test], uris.get("validation", ""), "validation", "test")
    train, out_of_train = separate_overlap(files["train"].all_rows(), [validation, test], same)
    findings += report_overlap(
        out_of_train, [validation, test], uris["train"], "training", "validation or test"
    )
    for name, rows in (("train", train), *_splits_with_files(validation, test, dataset)):
        if not len(rows):
            raise StageFailure(
                FailureClass.USER_DATA,
                "NoRows",
                f"dataset.{name}: no row is left after those that are also held out were left out.",
                "Give each split texts of its own.",
            )
    total = len(train)
    if dataset.test.split is not None:
        train, test = _draw_split(train, dataset.test.split, seed, "test", total, same)
    if dataset.validation.split is not None:
        train, validation = _draw_split(train, dataset.validation.split, seed, "validation", total, same)
    return Partition(
        {"train": train, "validation": validation, "test": test},
        len(out_of_train) + len(out_of_validation),
        tuple(findings),
    )


def _splits_with_files(
    validation: RowSubset, test: RowSubset, dataset: Dataset
) -> list[tuple[str, RowSubset]]:
    """Returns name and rows of the held-out splits that have files."""
    splits = (("validation", validation, dataset.validation), ("test", test, dataset.test))
    return [(name, rows) for name, rows, spec in splits if spec.split is None]


def _draw_split(
    part: RowSubset, share: float, seed: int, name: str, total: int, same: Grouping
) -> tuple[RowSubset, RowSubset]:
    """Draws a share of `total` rows from a subset.

    Returns:
        The rows that are not drawn, and the drawn rows.
    """
    questions = same.of(part)
    drawn = draw_held_out(
        questions, part.strata, part.rows.names.names, min(1.0, share * total / len(part)), seed
    )
    if not drawn.any() or drawn.all():
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "SplitTooSmall",
            f"dataset.{name}.split: {share:g} of {total:,} training rows leaves no row on one of the sides."
            f" The rows differ in {len(np.unique(questions)):,} texts or prompts; rows with the"
            " same stay on one side.",
            "Take another share, more different rows, or a file of its own.",
        )
    return part.select(~drawn), part.select(drawn)
