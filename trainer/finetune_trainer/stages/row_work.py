"""The inputs, the facts and the report of the passes of Prepare over the rows."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import (
    Account,
    FailureClass,
    Findings,
    Model,
    RowCounts,
)
from finetune_trainer.data import source_reader
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.listing import repeat_ignored_files
from finetune_trainer.data.partition import Partition
from finetune_trainer.data.rows import RowSubset
from finetune_trainer.data.sources import DataFile
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.models.run_settings import RunSettings
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store
from finetune_trainer.tasks.base import TaskData

REPORT = "report.json"


class PreparedFacts(Model):
    """Facts about the rows for the result of Prepare, stored in the index of the shards."""

    rows: RowCounts
    account: Account
    labels: NonNegativeInt
    tokens: NonNegativeInt
    truncated_tokens: NonNegativeInt
    typical_length: PositiveInt
    findings: Findings


@dataclass(frozen=True)
class RowWork:
    """The inputs of the passes."""

    config: TrainConfig
    task: TaskData[Any]
    tokenizer: Any
    added: Mapping[str, int]
    """Id of each token that the job adds to the tokenizer."""
    output: Store
    files: Mapping[SplitName, tuple[DataFile, ...]]
    folder: str
    """URI of the prepared rows, ends in a slash."""
    notes: tuple[Finding, ...]
    """Findings of the checks before the passes."""
    choose: Callable[[int, int], RunSettings]
    """Selects the `Auto` values from the number and the typical length of the training rows."""
    paths: Paths
    heartbeat: Heartbeat

    @property
    def wanted(self) -> frozenset[str]:
        """The columns that the task reads."""
        return self.task.columns(self.config.run)

    @property
    def max_bad(self) -> float:
        """Maximum share of rows that can be lost, from 0 to 1."""
        return self.config.run.dataset.max_bad_row_fraction


def source_of(read: Mapping[SplitName, source_reader.Source], name: SplitName) -> source_reader.Source:
    """Returns the source of the rows of a split."""
    return read.get(name, read["train"])


def select_kept_rows(
    parts: Partition, read: Mapping[SplitName, source_reader.Source], name: SplitName
) -> RowSubset:
    """Returns the rows of the files of a split that are in any split."""
    source = read[name]
    numbers = [part.numbers for split, part in parts.splits.items() if source_of(read, split) is source]
    return RowSubset(source.usable, np.sort(np.concatenate(numbers)))


def select_errors(findings: list[Finding]) -> list[Finding]:
    """Returns the findings of level error."""
    return [finding for finding in findings if finding.level == "error"]


def fail_on_errors(findings: list[Finding]) -> None:
    """Raises StageFailure for the first error, if there is one."""
    errors = select_errors(findings)
    if not errors:
        return
    others = len(errors) - 1
    more = f" The report has {others} more {'error' if others == 1 else 'errors'}." if others else ""
    raise StageFailure(
        FailureClass.USER_DATA,
        errors[0].code,
        errors[0].message + more + repeat_ignored_files(findings),
        "Correct the data.",
    )


def write_report(work: RowWork, findings: list[Finding], more: dict[str, Any]) -> None:
    """Writes the data report: the findings, and `more`."""
    report = {"findings": [finding.model_dump(mode="json", by_alias=True) for finding in findings], **more}
    work.output.write(work.folder + REPORT, json.dumps(report, ensure_ascii=False, indent=1).encode())
