"""The prepare stage, top to bottom: may we write, is it a model, is it data, what follows; tokenise once."""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt, ValidationError

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import (
    Activity,
    Chosen,
    Digest,
    FailureClass,
    Findings,
    Model,
    PreparePayload,
    RowCounts,
)
from finetune_trainer.data import doctor, sources, tokenise
from finetune_trainer.data.columns import columns_unused, unused
from finetune_trainer.data.data_report import Lengths, document
from finetune_trainer.data.findings import Finding, SplitName, warning
from finetune_trainer.data.listing import also_ignored
from finetune_trainer.data.partition import Partition, partition
from finetune_trainer.data.shards import Prepared, read_index, store_prepared
from finetune_trainer.data.sources import DataFile
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat, beat_on_bytes
from finetune_trainer.models import base_model, lineage, model_check, model_folder
from finetune_trainer.models.plan import choose, typical_length
from finetune_trainer.paths import Paths
from finetune_trainer.s3.digests import OnBytes
from finetune_trainer.s3.store import Store, open_store
from finetune_trainer.stages import preflight, trial
from finetune_trainer.stages.result import StageResult
from finetune_trainer.tasks.base import TaskData
from finetune_trainer.tasks.registry import data_of

log = logging.getLogger(__name__)

FORMAT = 3
"""Of the prepared rows; raised when the same files come to other rows or tokens."""
REPORT = "report.json"
_SLOW_SECONDS = 1800.0
"""A long tokenisation may be silent that long."""


class Facts(Model):
    """What later decisions need of the rows; kept beside the shards, so that they are read once."""

    rows: RowCounts
    labels: NonNegativeInt
    tokens: NonNegativeInt
    truncated_tokens: NonNegativeInt
    typical_length: PositiveInt
    findings: Findings


@dataclass(frozen=True)
class _Base:
    """The base model, checked and on disk."""

    digest: Digest
    folder: Path
    parameters: int
    positions: int | None
    tokenizer: Any
    warnings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Work:
    """What the parts below look at."""

    config: TrainConfig
    task: TaskData[Any]
    output: Store
    base: _Base
    files: dict[SplitName, tuple[DataFile, ...]]
    folder: str
    """Where the prepared rows go, ends in a slash."""
    notes: tuple[Finding, ...]
    """Found before any row was read."""


def run(config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Checks everything that needs no GPU, decides every `Auto` and stores the tokenised rows.

    Raises:
        StageFailure: UserConfig, UserData or Storage, with the reason in docs/reasons.md.
    """
    preflight.check_uris(config.run)
    heartbeat.beat(Activity.CHECKING_STORE, percent=0, quiet_seconds=_SLOW_SECONDS)
    stores = config.run.stores
    output = open_store(stores.output, "output", paths)
    data = open_store(stores.data, "data", paths)
    models = open_store(stores.model, "model", paths)
    preflight.check_output_free(output, config)
    preflight.check_writable(output, config)
    parent = lineage.keep_parent(config.run, models, output)
    found = sources.find(data, config.run.dataset)
    on_bytes = beat_on_bytes(heartbeat, Activity.CHECKING_STORE, _SLOW_SECONDS)
    files = {name: sources.fetch(data, split.uris, paths, on_bytes) for name, split in found.items()}
    heartbeat.beat(Activity.CHECKING_MODEL, percent=10, quiet_seconds=_SLOW_SECONDS)
    task = data_of(config.run.task)
    base = _base(
        config, task, models, paths, beat_on_bytes(heartbeat, Activity.CHECKING_MODEL, _SLOW_SECONDS)
    )
    if parent:
        lineage.check_files(config.run.model.uri, parent, base.folder, base.digest)
    digest = _data_digest(config, base, files)
    folder = f"{config.run.runs}prepared/{digest.removeprefix('sha256:')[:16]}/"
    keys = {*output.warnings, *data.warnings, *models.warnings}
    notes = [*(warning("Note", f"{text}.") for text in sorted(keys)), *base.warnings]
    ignored = [note for split in found.values() for note in split.notes]
    work = _Work(config, task, output, base, files, folder, (*notes, *ignored))
    facts = _stored(work) or _prepare_rows(work, heartbeat)
    heartbeat.beat(Activity.DONE, percent=100)
    return _result(work, digest, facts)


def _base(config: TrainConfig, task: TaskData[Any], store: Store, paths: Paths, on_bytes: OnBytes) -> _Base:
    """Checks the model by its small files and tries it out, before its weights are downloaded."""
    uri = config.run.model.uri.rstrip("/") + "/"
    wanted = model_check.Wanted(task.model_types(), task.HEAD, task.SUITABLE)
    inspection = model_folder.inspect(store, uri, wanted)
    found = trial.tried(config.run.task, config.run.method, inspection, paths)
    fresh = paths.scratch / "model"
    shutil.rmtree(fresh, ignore_errors=True)
    digest = base_model.download(store, uri, fresh, on_bytes)
    tokenizer = tokenise.load_tokenizer(fresh)
    tokenise.check_vocabulary(tokenizer, model_check.text_config(inspection.config).get("vocab_size"))
    return _Base(
        digest,
        fresh,
        inspection.parameters,
        model_check.positions(inspection.config, tokenizer.model_max_length),
        tokenizer,
        (*(warning("Note", f"{text}.") for text in inspection.warnings), *found),
    )


def _data_digest(config: TrainConfig, base: _Base, files: dict[SplitName, tuple[DataFile, ...]]) -> Digest:
    """Names everything that the prepared rows follow from: the same inputs, the same folder."""
    dataset = config.run.dataset
    inputs = {
        "format": FORMAT,
        "task": config.run.task,
        "model": base.digest,
        "files": {name: [[file.name, file.digest] for file in split] for name, split in files.items()},
        "shares": [dataset.validation.split, dataset.test.split],
        "columns": dataset.columns.model_dump(),
        "maxBadRowFraction": dataset.max_bad_row_fraction,
        "maxLength": config.run.training.max_length,
        "trainOn": config.run.training.train_on,
        "seed": config.run.training.seed,
    }
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _stored(work: _Work) -> Facts | None:
    """What an earlier attempt, or a job with another learning rate, has found in the same inputs."""
    index = read_index(work.output, work.folder)
    if index is None or work.output.head(work.folder + REPORT) is None:
        return None
    try:
        facts = Facts.model_validate(index.extra)
    except ValidationError:
        return None
    log.info("the rows are already prepared: %s", work.folder)
    return facts


def _prepare_rows(work: _Work, heartbeat: Heartbeat) -> Facts:
    """Reads, checks, splits and tokenises all rows; the index is the last thing written."""
    run, task = work.config.run, work.task
    heartbeat.beat(Activity.CHECKING_DATA, percent=20, quiet_seconds=_SLOW_SECONDS)
    reader = partial(task.example, run=run)
    wanted = task.columns(run)
    read = {name: sources.read(name, files, wanted, reader) for name, files in work.files.items()}
    findings = list(work.notes)
    for source in read.values():
        findings += doctor.check_source(
            source, partial(task.absent, run=run), run.dataset.max_bad_row_fraction
        )
        findings += columns_unused({file.name: file.columns for file in source.files}, wanted, source.home)
    _fail_on_errors(work, findings)
    parts = partition(
        {name: source.examples for name, source in read.items()},
        {name: source.home for name, source in read.items()},
        run.dataset,
        run.training.seed,
    )
    origins = {name: read.get(name, read["train"]) for name in parts.splits}
    homes = {name: source.home for name, source in origins.items()}
    findings += parts.findings
    for name, source in read.items():
        findings += doctor.duplicates(parts.splits[name] if name != "train" else source.examples, source.home)
    findings += task.check_rows(parts.splits, homes)
    findings += doctor.few_test_rows(len(parts.splits["test"]))
    _fail_on_errors(work, findings)

    heartbeat.beat(Activity.TOKENISING, percent=40, quiet_seconds=_SLOW_SECONDS)
    encoded = {name: task.encode(work.base.tokenizer, rows, run) for name, rows in parts.splits.items()}
    lengths = {name: Lengths.of(rows) for name, rows in encoded.items()}
    typical = typical_length(lengths["train"].array, task.AUTO.percentile)
    longest = _chosen(work, len(encoded["train"]), typical).max_length
    cut = {
        name: task.cut(work.base.tokenizer, rows, encoded[name], longest)
        for name, rows in parts.splits.items()
    }
    cut_rows, lost = lengths["train"].beyond(longest)
    findings += doctor.truncation(cut_rows, len(encoded["train"]), lost, longest)
    findings += task.check_encoded(parts.splits, cut, homes)
    _fail_on_errors(work, findings)
    labels = task.classes(parts.splits["train"])
    prepared = Prepared(
        **{
            name: tokenise.as_split(rows, cut[name], task.labels(rows, labels), origins[name].spans)
            for name, rows in parts.splits.items()
        },
        labels=labels,
    )

    heartbeat.beat(Activity.UPLOADING, percent=80, quiet_seconds=_SLOW_SECONDS)
    facts = Facts(
        rows=_row_counts(parts, sum(len(source.bad) for source in read.values())),
        labels=len(labels),
        tokens=len(prepared.train.tokens),
        truncated_tokens=lost,
        typical_length=typical,
        findings=_count(findings),
    )
    report = document(parts.splits, work.files, lengths, longest)
    report["unusedColumns"] = {
        name: {file.name: unused(file.columns, wanted) for file in source.files}
        for name, source in read.items()
    }
    report |= task.shown(work.base.tokenizer, parts.splits["train"], cut["train"])
    _write_report(work, findings, report)
    store_prepared(
        work.output,
        work.folder,
        prepared,
        facts.model_dump(mode="json", by_alias=True),
        beat_on_bytes(heartbeat, Activity.UPLOADING, _SLOW_SECONDS),
    )
    return facts


def _row_counts(parts: Partition, bad: int) -> RowCounts:
    return RowCounts(
        train=len(parts.splits["train"]),
        validation=len(parts.splits["validation"]),
        test=len(parts.splits["test"]),
        dropped=bad + parts.left_out,
    )


def _count(findings: list[Finding]) -> Findings:
    errors = sum(finding.level == "error" for finding in findings)
    return Findings(errors=errors, warnings=len(findings) - errors)


def _fail_on_errors(work: _Work, findings: list[Finding]) -> None:
    """Stops when the rows cannot be used; the report then says all that was found."""
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        return
    _write_report(work, findings, {})
    more = f" {len(errors) - 1} more errors in the report." if len(errors) > 1 else ""
    raise StageFailure(
        FailureClass.USER_DATA,
        errors[0].code,
        errors[0].message + more + also_ignored(findings),
        f"Mend the data; lines and reasons are in {work.folder}{REPORT}.",
    )


def _write_report(work: _Work, findings: list[Finding], more: dict[str, Any]) -> None:
    report = {"findings": [finding.model_dump(mode="json", by_alias=True) for finding in findings], **more}
    work.output.write(work.folder + REPORT, json.dumps(report, ensure_ascii=False, indent=1).encode())


def _chosen(work: _Work, rows: int, typical: int) -> Chosen:
    base = work.base
    return choose(work.config.run, rows, typical, base.parameters, base.positions, work.task.AUTO)


def _result(work: _Work, digest: Digest, facts: Facts) -> StageResult:
    chosen = _chosen(work, facts.rows.train, facts.typical_length)
    payload = PreparePayload(
        data_digest=digest,
        model_digest=work.base.digest,
        prepared=work.folder,
        rows=facts.rows,
        labels=facts.labels,
        tokens=facts.tokens,
        truncated_tokens=facts.truncated_tokens,
        parameters=work.base.parameters,
        chosen=chosen,
        findings=facts.findings,
        report=work.folder + REPORT,
    )
    classes = f" in {facts.labels} classes" if facts.labels else ""
    message = (
        f"{facts.rows.train:,} training rows{classes}; "
        f"{facts.rows.dropped:,} rows left out; {facts.findings.warnings} warnings in the report"
    )
    return StageResult(payload, message)
