"""The passes of Prepare over the rows: read, check, split, tokenize, truncate and store.

Each pass reads the rows from disk in batches. Each row takes 28 to 44 bytes of memory.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt, PositiveInt

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import (
    Account,
    Activity,
    Chosen,
    FailureClass,
    Findings,
    Model,
    RowCounts,
)
from finetune_trainer.data import data_checks, source_reader, sources
from finetune_trainer.data.columns import list_unused_columns, warn_unused_columns
from finetune_trainer.data.data_report import build_account, build_report
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.listing import repeat_ignored_files
from finetune_trainer.data.partition import Partition, partition
from finetune_trainer.data.progress import ProgressReporter
from finetune_trainer.data.rows import RowSubset, RowWriter, Strata
from finetune_trainer.data.shard_writer import ShardWriter
from finetune_trainer.data.shards import Index, Shard, write_index
from finetune_trainer.data.sources import DataFile
from finetune_trainer.data.tokens import (
    EncodedSplit,
    Refusals,
    TruncatedSplit,
    build_shard_schema,
    encode_split,
)
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.models.plan import typical_length
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store
from finetune_trainer.tasks.base import TaskData

REPORT = "report.json"
_SPLITS = get_args(SplitName)


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
    output: Store
    files: Mapping[SplitName, tuple[DataFile, ...]]
    folder: str
    """URI of the prepared rows, ends in a slash."""
    notes: tuple[Finding, ...]
    """Findings of the checks before the passes."""
    choose: Callable[[int, int], Chosen]
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


def prepare_rows(work: RowWork) -> PreparedFacts:
    """Reads, checks, splits, tokenizes and stores all rows. The index is written last.

    Args:
        work: the inputs.

    Raises:
        StageFailure: UserData, UserConfig or Storage.
    """
    findings = [*work.notes]
    try:
        with _open_scratch_folder(work.paths) as scratch:
            return _run_passes(work, findings, scratch)
    except StageFailure as failure:
        if failure.failure not in (FailureClass.USER_DATA, FailureClass.USER_CONFIG):
            raise
        if not _errors(findings):
            findings.append(Finding(level="error", code=failure.reason, message=failure.message))
        _write_report(work, findings, {})
        failure.hint = f"{failure.hint} The findings of the data check are in {work.folder}{REPORT}.".lstrip()
        raise


def _run_passes(work: RowWork, findings: list[Finding], scratch: Path) -> PreparedFacts:
    """Runs all passes, and appends to `findings`."""
    read = _read_files(work, scratch)
    for source in read.values():
        findings += data_checks.check_source(
            source, partial(work.task.missing_columns, run=work.config.run), work.max_bad
        )
        columns = {file.name: file.columns for file in source.files}
        findings += warn_unused_columns(columns, work.wanted, source.home)
    _fail_on_errors(findings)
    parts = _split_rows(work, read, findings)
    return _tokenise_rows(work, read, parts, findings, scratch)


def _read_files(work: RowWork, scratch: Path) -> dict[SplitName, source_reader.Source]:
    """Runs the first pass: reads the files, and writes usable rows to disk."""
    reader = partial(work.task.example, run=work.config.run)
    names = Strata()
    sizes = {name: sum(file.size for file in files) for name, files in work.files.items()}
    progress = ProgressReporter(work.heartbeat, Activity.CHECKING_DATA, (20, 40), sum(sizes.values()))
    read: dict[SplitName, source_reader.Source] = {}
    before = 0

    def on_progress(done: float) -> None:
        progress.add(1, done=before + done)

    for name, files in work.files.items():
        writer = RowWriter(scratch / f"{name}.rows.arrow", names, work.wanted)
        read[name] = sources.read_split(name, files, work.wanted, reader, writer, on_progress)
        before += sizes[name]
    return read


def _split_rows(
    work: RowWork, read: Mapping[SplitName, source_reader.Source], findings: list[Finding]
) -> Partition:
    """Splits the rows into training, validation and test rows, and appends to `findings`."""
    run = work.config.run
    parts = partition(
        {name: source.usable for name, source in read.items()},
        {name: source.home for name, source in read.items()},
        run.dataset,
        run.training.seed,
    )
    findings += parts.findings
    for name, source in read.items():
        findings += data_checks.report_duplicates(_select_kept_rows(parts, read, name), source.home)
    homes = {name: _source_of(read, name).home for name in parts.splits}
    findings += work.task.check_rows(parts.splits, homes)
    findings += data_checks.check_test_rows(len(parts.splits["test"]))
    _fail_on_errors(findings)
    return parts


def _tokenise_rows(
    work: RowWork,
    read: Mapping[SplitName, source_reader.Source],
    parts: Partition,
    findings: list[Finding],
    scratch: Path,
) -> PreparedFacts:
    """Runs the second and the third pass: tokenizes the rows, and then writes the shards."""
    refusals = {name: Refusals(work.task.REFUSALS) for name in parts.splits}
    whole = _encode_splits(work, parts, refusals, scratch)
    for name, split in whole.items():
        findings += work.task.report_untrained(split.untrained, name, _source_of(read, name).home)
    refused = _report_refusals(work, read, refusals)
    if _errors(refused):
        findings += refused
    _fail_on_errors(findings)
    _check_not_empty({name: len(split.lengths.array) for name, split in whole.items()})
    lengths = {name: split.lengths for name, split in whole.items()}
    typical = typical_length(lengths["train"].array, work.task.AUTO_LIMITS.percentile)
    longest = work.choose(len(lengths["train"].array), typical).max_length
    cut_rows, lost = lengths["train"].count_excess(longest)
    findings += data_checks.report_truncation(cut_rows, len(lengths["train"].array), lost, longest)

    classes = work.task.classes(parts.splits["train"].counts())
    cut, shards = _store_shards(work, whole, longest, classes, refusals, scratch)
    findings += _report_refusals(work, read, refusals)
    _fail_on_errors(findings)
    _check_not_empty({name: rows.rows for name, rows in cut.items()})
    account = _count_rows(work, read, parts, refusals, len(classes))
    facts = PreparedFacts(
        rows=_build_row_counts(cut, account),
        account=account,
        labels=len(classes),
        tokens=cut["train"].tokens,
        truncated_tokens=lost,
        typical_length=typical,
        findings=_count_findings(findings),
    )
    report = build_report(parts.splits, work.files, lengths, longest)
    report["rows"] = {name: rows.rows for name, rows in cut.items()}
    report["unusedColumns"] = {
        name: {file.name: list_unused_columns(file.columns, work.wanted) for file in source.files}
        for name, source in read.items()
    }
    report["account"] = build_account(account, read, work.wanted)
    shown = cut["train"].shown
    report |= work.task.report_samples(
        work.tokenizer,
        [example for example, _ in shown],
        [encoded for _, encoded in shown],
        cut["train"].trained_tokens,
    )
    _write_report(work, findings, report)
    index = Index(
        labels=classes,
        splits=shards,
        files={name: tuple(_source_of(read, name).usable.spans) for name in _SPLITS},
        extra=facts.model_dump(mode="json", by_alias=True),
    )
    write_index(work.output, work.folder, index)
    return facts


def _encode_splits(
    work: RowWork, parts: Partition, refusals: Mapping[SplitName, Refusals], scratch: Path
) -> dict[SplitName, EncodedSplit]:
    total = sum(map(len, parts.splits.values()))
    progress = ProgressReporter(work.heartbeat, Activity.TOKENISING, (40, 80), total)
    encode = partial(work.task.encode, work.tokenizer, run=work.config.run)
    return {
        name: encode_split(
            part,
            work.task.schema(),
            encode,
            refusals[name],
            work.task.refusal,
            scratch / f"{name}.tokens.arrow",
            progress,
        )
        for name, part in parts.splits.items()
    }


def _store_shards(
    work: RowWork,
    whole: Mapping[SplitName, EncodedSplit],
    longest: int,
    classes: tuple[str, ...],
    refusals: Mapping[SplitName, Refusals],
    scratch: Path,
) -> tuple[dict[SplitName, TruncatedSplit], dict[SplitName, tuple[Shard, ...]]]:
    """Truncates the rows and writes the shards, without the index."""
    progress = ProgressReporter(
        work.heartbeat,
        Activity.UPLOADING,
        (80, 99),
        sum(len(split.lengths.array) for split in whole.values()),
    )
    schema = build_shard_schema(work.task.schema())
    cut: dict[SplitName, TruncatedSplit] = {}
    shards: dict[SplitName, tuple[Shard, ...]] = {}
    for name, split in whole.items():
        cut[name] = TruncatedSplit(
            whole=split,
            schema=schema,
            max_length=longest,
            truncate=partial(work.task.truncate, work.tokenizer, max_length=longest),
            labels=_map_strata_to_classes(split.part.rows.names, classes),
            refusals=refusals[name],
            refusal=work.task.refusal,
        )
        with ShardWriter(
            work.output, work.folder, name, schema, scratch, lambda _: progress.keep_alive()
        ) as writer:
            for batch in cut[name].batches():
                writer.write(batch)
                progress.add(batch.num_rows)
            shards[name] = writer.finish()
    return cut, shards


def _map_strata_to_classes(
    names: Strata, classes: tuple[str, ...]
) -> Callable[[npt.NDArray[np.int32]], npt.NDArray[np.int32]]:
    """Returns a function that maps numbers of strata to numbers of classes, or to 0 without classes."""
    number = {name: index for index, name in enumerate(classes)}
    table = np.array([number.get(name, 0) for name in names.names], np.int32)

    def numbers(strata: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        found: npt.NDArray[np.int32] = table[strata]
        return found

    return numbers


def _source_of(read: Mapping[SplitName, source_reader.Source], name: SplitName) -> source_reader.Source:
    """Returns the source of the rows of a split."""
    return read.get(name, read["train"])


def _select_kept_rows(
    parts: Partition, read: Mapping[SplitName, source_reader.Source], name: SplitName
) -> RowSubset:
    """Returns the rows of the files of a split that are in any split."""
    source = read[name]
    numbers = [part.numbers for split, part in parts.splits.items() if _source_of(read, split) is source]
    return RowSubset(source.usable, np.sort(np.concatenate(numbers)))


def _report_refusals(
    work: RowWork, read: Mapping[SplitName, source_reader.Source], refusals: Mapping[SplitName, Refusals]
) -> list[Finding]:
    """Reports the rows that could not be tokenised."""
    findings = []
    for name, refused in refusals.items():
        source = _source_of(read, name)
        refused_counts = [
            other.count for split, other in refusals.items() if _source_of(read, split) is source
        ]
        lost = source.bad.count + sum(refused_counts)
        findings += [
            data_checks.report_refused_rows(code, rows, name, source, lost, work.max_bad)
            for code, rows in refused.found.items()
        ]
    return findings


def _check_not_empty(rows: Mapping[SplitName, int]) -> None:
    for name, count in rows.items():
        if not count:
            raise StageFailure(
                FailureClass.USER_DATA,
                "NoRows",
                f"dataset.{name}: no row is left after the rows that cannot be tokenised were left out.",
                "Correct these rows, or give the split more rows.",
            )


def _count_rows(
    work: RowWork,
    read: Mapping[SplitName, source_reader.Source],
    parts: Partition,
    refusals: Mapping[SplitName, Refusals],
    learnt: int,
) -> Account:
    left_out = {"BadRows": sum(source.bad.count for source in read.values()), "Overlap": parts.left_out}
    for refused in refusals.values():
        for code, rows in refused.found.items():
            left_out[code] = left_out.get(code, 0) + rows.count
    columns = {name for source in read.values() for file in source.files for name in file.columns}
    strata = next(iter(read.values())).usable.names.names
    return Account(
        read=sum(source.rows for source in read.values()),
        left_out={code: count for code, count in left_out.items() if count},
        repeated=sum(data_checks.count_repeated_rows(_select_kept_rows(parts, read, name)) for name in read),
        columns=len(columns),
        columns_used=len(columns & work.wanted),
        classes=len(work.task.classes(strata)),
        classes_learnt=learnt,
    )


def _build_row_counts(cut: Mapping[SplitName, TruncatedSplit], account: Account) -> RowCounts:
    return RowCounts(
        train=cut["train"].rows,
        validation=cut["validation"].rows,
        test=cut["test"].rows,
        dropped=sum(account.left_out.values()),
    )


def _count_findings(findings: list[Finding]) -> Findings:
    errors = len(_errors(findings))
    return Findings(errors=errors, warnings=len(findings) - errors)


def _errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "error"]


def _fail_on_errors(findings: list[Finding]) -> None:
    """Raises StageFailure for the first error, if there is one."""
    errors = _errors(findings)
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


def _write_report(work: RowWork, findings: list[Finding], more: dict[str, Any]) -> None:
    report = {"findings": [finding.model_dump(mode="json", by_alias=True) for finding in findings], **more}
    work.output.write(work.folder + REPORT, json.dumps(report, ensure_ascii=False, indent=1).encode())


@contextmanager
def _open_scratch_folder(paths: Paths) -> Iterator[Path]:
    """Creates an empty folder for the passes, and deletes the folder at the end."""
    folder = paths.scratch / "rows"
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)
