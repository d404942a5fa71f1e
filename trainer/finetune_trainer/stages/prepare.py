"""The stage Prepare: checks store, model and data, selects `Auto` values, and stores the tokenized rows."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_trainer.config import ComputeType, MemoryLimits, Run, TrainConfig
from finetune_trainer.contract import Activity, Digest, PreparePayload, WeightsDtype
from finetune_trainer.data import data_checks, sources, tokenise
from finetune_trainer.data.added_tokens import extend_tokenizer
from finetune_trainer.data.findings import Finding, SplitName, warning
from finetune_trainer.data.shards import read_index
from finetune_trainer.data.sources import DataFile
from finetune_trainer.heartbeat import Heartbeat, beat_on_bytes
from finetune_trainer.models import base_model, lineage, model_check, model_folder
from finetune_trainer.models.dtypes import select_dtypes
from finetune_trainer.models.memory import ModelFacts
from finetune_trainer.models.plan import BaseFacts
from finetune_trainer.models.run_settings import RunSettings, choose_settings, products_of
from finetune_trainer.paths import Paths
from finetune_trainer.s3.digests import OnBytes
from finetune_trainer.s3.store import Store, open_store
from finetune_trainer.stages import preflight, trial
from finetune_trainer.stages.prepare_rows import prepare_rows
from finetune_trainer.stages.result import StageResult
from finetune_trainer.stages.row_work import REPORT, PreparedFacts, RowWork
from finetune_trainer.tasks.base import TaskData
from finetune_trainer.tasks.registry import data_of

log = logging.getLogger(__name__)

FORMAT = 4
"""Version of the prepared rows. A new version is required if the same files produce other rows or tokens."""
_SLOW_SECONDS = 1800.0
"""Maximum time between two heartbeats during a large download."""


@dataclass(frozen=True)
class _BaseModel:
    """The checked base model on disk."""

    digest: Digest
    folder: Path
    facts: BaseFacts
    sizes: ModelFacts | None
    """None if the model could not be measured."""
    tokenizer: Any
    """The tokenizer of the run, which also has the added tokens."""
    added: Mapping[str, int]
    """Id of each added token."""
    warnings: tuple[Finding, ...]


def run(config: TrainConfig, paths: Paths, heartbeat: Heartbeat) -> StageResult:
    """Runs all checks that need no GPU, selects the `Auto` values, and stores the tokenized rows.

    Raises:
        StageFailure: UserConfig, UserData or Storage; docs/reasons.md lists the reasons.
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
    found = sources.find_files(data, config.run.dataset)
    on_bytes = beat_on_bytes(heartbeat, Activity.CHECKING_STORE, _SLOW_SECONDS)
    files = {name: sources.download_files(data, split.uris, paths, on_bytes) for name, split in found.items()}
    heartbeat.beat(Activity.CHECKING_MODEL, percent=10, quiet_seconds=_SLOW_SECONDS)
    task = data_of(config.run.task)
    base = _prepare_base_model(
        config, task, models, paths, beat_on_bytes(heartbeat, Activity.CHECKING_MODEL, _SLOW_SECONDS)
    )
    if parent:
        lineage.check_files(config.run.model.uri, parent, base.folder, base.digest)
    digest = _data_digest(config, base, files)
    folder = f"{config.run.runs}prepared/{digest.removeprefix('sha256:')[:16]}/"
    keys = {*output.warnings, *data.warnings, *models.warnings}
    notes = [*(warning("Note", f"{text}.") for text in sorted(keys)), *base.warnings]
    ignored = [note for split in found.values() for note in split.notes]
    work = RowWork(
        config=config,
        task=task,
        tokenizer=base.tokenizer,
        added=base.added,
        output=output,
        files=files,
        folder=folder,
        notes=(*notes, *ignored),
        choose=partial(_choose_settings, config, base, task),
        paths=paths,
        heartbeat=heartbeat,
    )
    facts = _read_stored_facts(output, folder) or prepare_rows(work)
    heartbeat.beat(Activity.DONE, percent=100)
    return _build_result(work, base, digest, facts)


def _prepare_base_model(
    config: TrainConfig, task: TaskData[Any], store: Store, paths: Paths, on_bytes: OnBytes
) -> _BaseModel:
    """Checks and tests the base model by its small files, and then downloads the weights."""
    uri = config.run.model.uri.rstrip("/") + "/"
    wanted = model_check.ModelRequirements(task.model_types(), task.HEAD, task.SUITABLE)
    inspection = model_folder.inspect(store, uri, wanted)
    weights = _weights_dtype(config.run, inspection.dtype)
    tried = trial.try_model(config.run.task, config.run.method, inspection, weights, paths)
    fresh = paths.scratch / "model"
    shutil.rmtree(fresh, ignore_errors=True)
    digest = base_model.download(store, uri, fresh, on_bytes)
    tokenizer = tokenise.load_tokenizer(fresh)
    tokenise.check_vocabulary(tokenizer, model_check.text_config(inspection.config).get("vocab_size"))
    added: Mapping[str, int] = {}
    known: tuple[str, ...] = ()
    if tokens := config.run.added_tokens:
        extended = extend_tokenizer(fresh, tokens, paths.scratch)
        tokenizer = tokenise.load_tokenizer(extended.folder)
        added, known = extended.ids, extended.known
    notes = (*(warning("Note", f"{text}.") for text in inspection.warnings), *tried.findings)
    return _BaseModel(
        digest,
        fresh,
        BaseFacts(
            inspection.parameters,
            model_check.find_position_limit(inspection.config, tokenizer.model_max_length),
            inspection.dtype,
            tried.can_checkpoint,
        ),
        tried.sizes,
        tokenizer,
        added,
        (*notes, *data_checks.report_known_tokens(known)),
    )


def _data_digest(
    config: TrainConfig, base: _BaseModel, files: dict[SplitName, tuple[DataFile, ...]]
) -> Digest:
    """Returns the digest of all inputs of the prepared rows. Equal inputs use the same folder."""
    dataset = config.run.dataset
    inputs: dict[str, Any] = {
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
    if tokens := config.run.added_tokens:
        inputs["addedTokens"] = tokens
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _read_stored_facts(output: Store, folder: str) -> PreparedFacts | None:
    """Reads the facts of an earlier attempt with the same inputs; None if the folder is incomplete."""
    index = read_index(output, folder)
    if index is None or output.head(folder + REPORT) is None:
        return None
    try:
        facts = PreparedFacts.model_validate(index.extra)
    except ValidationError:
        return None
    log.info("the rows are already prepared: %s", folder)
    return facts


def _weights_dtype(run: Run, base: WeightsDtype) -> ComputeType:
    """Returns the data type of the weights in the memory of Train, also for a ZeRO stage of `Auto`."""
    stage = 2 if run.zero_stage == "Auto" else run.zero_stage
    return select_dtypes(base, products_of(run), stage).weights


def _choose_settings(
    config: TrainConfig, base: _BaseModel, task: TaskData[Any], rows: int, typical: int
) -> RunSettings:
    return choose_settings(
        config.run,
        config.memory or MemoryLimits(),
        rows,
        typical,
        base.facts,
        task.AUTO_LIMITS,
        base.sizes,
        min_nodes=config.min_nodes,
    )


def _build_result(work: RowWork, base: _BaseModel, digest: Digest, facts: PreparedFacts) -> StageResult:
    settings = work.choose(facts.rows.train, facts.typical_length)
    payload = PreparePayload(
        data_digest=digest,
        model_digest=base.digest,
        prepared=work.folder,
        rows=facts.rows,
        labels=facts.labels,
        tokens=facts.tokens,
        truncated_tokens=facts.truncated_tokens,
        parameters=base.facts.parameters,
        chosen=settings.chosen,
        findings=facts.findings,
        report=work.folder + REPORT,
        account=facts.account,
        memory=settings.memory,
    )
    classes = f" in {facts.labels} classes" if facts.labels else ""
    message = (
        f"{facts.rows.train:,} training rows{classes}; "
        f"{facts.rows.dropped:,} rows left out; {facts.findings.warnings} warnings in the report"
    )
    if settings.excess:
        message = f"{settings.excess}. {message}"
    return StageResult(payload, message)
