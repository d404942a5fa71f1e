"""Runs the passes of Prepare over the rows; the first pass reads, checks and splits the rows.

Each pass reads the rows from disk in batches. Each row takes 28 to 44 bytes of memory.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import rmtree

from finetune_trainer.contract import Activity, FailureClass
from finetune_trainer.data import data_checks, source_reader, sources
from finetune_trainer.data.columns import warn_unused_columns
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.partition import Partition, partition
from finetune_trainer.data.progress import ProgressReporter
from finetune_trainer.data.rows import RowWriter, Strata
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.stages.row_work import (
    REPORT,
    PreparedFacts,
    RowWork,
    fail_on_errors,
    select_errors,
    select_kept_rows,
    source_of,
    write_report,
)
from finetune_trainer.stages.tokenise_rows import tokenise_rows


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
        if not select_errors(findings):
            findings.append(Finding(level="error", code=failure.reason, message=failure.message))
        write_report(work, findings, {})
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
    fail_on_errors(findings)
    parts = _split_rows(work, read, findings)
    return tokenise_rows(work, read, parts, findings, scratch)


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
        findings += data_checks.report_duplicates(select_kept_rows(parts, read, name), source.home)
    homes = {name: source_of(read, name).home for name in parts.splits}
    findings += work.task.check_rows(parts.splits, homes)
    findings += data_checks.check_test_rows(len(parts.splits["test"]))
    fail_on_errors(findings)
    return parts


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
