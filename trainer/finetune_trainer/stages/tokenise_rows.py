"""The second and the third pass of Prepare over the rows: tokenize, and then truncate and store."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from finetune_trainer.contract import (
    Account,
    Activity,
    FailureClass,
    Findings,
    RowCounts,
)
from finetune_trainer.data import data_checks, source_reader
from finetune_trainer.data.columns import list_unused_columns
from finetune_trainer.data.data_report import build_account, build_report
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.partition import Partition
from finetune_trainer.data.progress import ProgressReporter
from finetune_trainer.data.rows import Strata
from finetune_trainer.data.shard_writer import ShardWriter
from finetune_trainer.data.shards import Index, Shard, write_index
from finetune_trainer.data.tokens import (
    EncodedSplit,
    Refusals,
    TruncatedSplit,
    build_shard_schema,
    encode_split,
)
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.plan import typical_length
from finetune_trainer.stages.row_work import (
    PreparedFacts,
    RowWork,
    fail_on_errors,
    select_errors,
    select_kept_rows,
    source_of,
    write_report,
)

_SPLITS = get_args(SplitName)


def tokenise_rows(
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
        findings += work.task.report_untrained(split.untrained, name, source_of(read, name).home)
    refused = _report_refusals(work, read, refusals)
    if select_errors(refused):
        findings += refused
    fail_on_errors(findings)
    _check_not_empty({name: len(split.lengths.array) for name, split in whole.items()})
    lengths = {name: split.lengths for name, split in whole.items()}
    typical = typical_length(lengths["train"].array, work.task.AUTO_LIMITS.percentile)
    longest = work.choose(len(lengths["train"].array), typical).chosen.max_length
    cut_rows, lost = lengths["train"].count_excess(longest)
    findings += data_checks.report_truncation(cut_rows, len(lengths["train"].array), lost, longest)

    classes = work.task.classes(parts.splits["train"].counts())
    cut, shards = _store_shards(work, whole, longest, classes, refusals, scratch)
    findings += data_checks.report_unused_tokens(
        [token for token, number in work.added.items() if number not in cut["train"].seen], len(work.added)
    )
    findings += _report_refusals(work, read, refusals)
    fail_on_errors(findings)
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
    write_report(work, findings, report)
    index = Index(
        labels=classes,
        splits=shards,
        files={name: tuple(source_of(read, name).usable.spans) for name in _SPLITS},
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
            watched=np.array([*work.added.values()], np.int32),
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


def _report_refusals(
    work: RowWork, read: Mapping[SplitName, source_reader.Source], refusals: Mapping[SplitName, Refusals]
) -> list[Finding]:
    """Reports the rows that could not be tokenised."""
    findings = []
    for name, refused in refusals.items():
        source = source_of(read, name)
        refused_counts = [
            other.count for split, other in refusals.items() if source_of(read, split) is source
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
        repeated=sum(data_checks.count_repeated_rows(select_kept_rows(parts, read, name)) for name in read),
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
    errors = len(select_errors(findings))
    return Findings(errors=errors, warnings=len(findings) - errors)
