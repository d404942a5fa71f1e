"""Renders the input of the trainer: the run of a FineTuneJob and the config of each Job. Pure."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from finetune_operator.api import (
    DEFAULT_REGION,
    Columns,
    FineTuneJob,
    FineTuneJobSpec,
    LoraSpec,
    Storage,
)
from finetune_operator.api.changes import outside_digest
from finetune_operator.settings import Profile, Settings, Store
from finetune_trainer import config as trainer
from finetune_trainer.contract import Chosen, Digest, Stage

CONFIG_LIMIT_BYTES = 64 * 1024
"""The limit of a rendered config, which is an annotation: an object may have 256 KiB of annotations."""
STORE_ROLES: tuple[trainer.StoreRole, ...] = ("data", "model", "output")


@dataclass(frozen=True)
class ResolvedRun:
    """The run that attempts are built from, with its profile."""

    run: trainer.Run
    profile: Profile
    spec_digest: Digest
    """See `spec_digest` below. Results count only for the same digest."""


class Unrenderable(ValueError):  # noqa: N818 - names what the job is
    """The trainer's config refuses a value of the job. The message names field, value and remedy."""


def storage_of(job: FineTuneJob, role: trainer.StoreRole, profile: Profile) -> Storage | None:
    """The storage of a role: its own storage, else spec.storage, else the store of the profile."""
    own = {
        "data": job.spec.dataset.storage,
        "model": job.spec.model.storage,
        "output": job.spec.output.storage,
    }
    default = Storage(store=profile.store) if profile.store else None
    return own[role] or job.spec.storage or default


def store_of(job: FineTuneJob, role: trainer.StoreRole, profile: Profile, settings: Settings) -> Store | None:
    """The endpoint, the certificate authority and the keys of a role, as one unit; None without a store.

    The certificate authority, and the keys if the job names no Secret, come from the store with the endpoint.
    """
    storage = storage_of(job, role, profile)
    if storage is None:
        return None
    if storage.endpoint is not None:
        return Store(
            endpoint=storage.endpoint,
            region=storage.region or DEFAULT_REGION,
            ca_bundle_ref=storage.ca_bundle_ref,
            secret_ref=storage.secret_ref,
        )
    store = settings.stores.get(storage.store or "")
    if store is None or storage.secret_ref is None:
        return store
    return store.model_copy(update={"secret_ref": storage.secret_ref})


def access_of(run: trainer.Run, role: trainer.StoreRole) -> trainer.StoreAccess:
    """The store of a role in the trainer's config."""
    stores = run.stores
    return {"data": stores.data, "model": stores.model, "output": stores.output}[role]


def same_endpoint(one: str, other: str) -> bool:
    """Whether two URLs have the same scheme, host and port."""
    return _scheme_host_port(one) == _scheme_host_port(other)


def port_of(endpoint: str) -> int:
    """The port of an endpoint: the port in the URL, or the default port of the scheme."""
    parts = urlsplit(endpoint)
    return parts.port or (443 if parts.scheme == "https" else 80)


def output_uri(job: FineTuneJob) -> str:
    """The folder of the published model: `<output.uri>/<namespace>/<name>/<suffix>/`.

    The default of the suffix is the first 8 characters of the uid.
    """
    meta = job.metadata
    last = job.spec.output.suffix or uid_of(job).replace("-", "")[:8]
    return f"{job.spec.output.uri.rstrip('/')}/{meta['namespace']}/{meta['name']}/{last}/"


def runs_uri(job: FineTuneJob) -> str:
    """The folder of all other objects: `s3://<output bucket>/.finetune-runs/<namespace>/<uid>/`."""
    bucket = job.spec.output.uri.removeprefix("s3://").partition("/")[0]
    return f"s3://{bucket}/.finetune-runs/{job.metadata['namespace']}/{uid_of(job)}/"


def uid_of(job: FineTuneJob) -> str:
    """The job's uid."""
    return str(job.metadata["uid"])


def run(job: FineTuneJob, profile: Profile, model: trainer.ModelSource, settings: Settings) -> trainer.Run:
    """The run of a job, which is the same for every stage and attempt.

    Args:
        job: the FineTuneJob.
        profile: the profile that the job names.
        model: the model that `spec.model` resolves to.
        settings: the operator's settings, which hold the stores.

    Raises:
        Unrenderable: a role has no store, or the trainer's config refuses a value.
    """
    spec = job.spec
    try:
        return trainer.Run(
            task=spec.task,
            model=model,
            dataset=trainer.Dataset(
                train=trainer.TrainSplit(**spec.dataset.train.model_dump(exclude_none=True)),
                validation=trainer.HeldOut(**spec.dataset.validation.model_dump(exclude_none=True)),
                test=trainer.HeldOut(**spec.dataset.test.model_dump(exclude_none=True)),
                columns=columns(spec.dataset.columns),
                max_bad_row_fraction=spec.dataset.max_bad_row_fraction,
            ),
            method=method(job, model),
            training=trainer.Training(**spec.training.model_dump(exclude_none=True)),
            zero_stage=spec.deepspeed.zero_stage,
            offload=spec.deepspeed.offload,
            world=world(job),
            evaluation=trainer.EvaluationSpec(
                metrics=spec.evaluation.measured_for(spec.task),
                primary_metric=spec.evaluation.deciding_for(spec.task),
            ),
            output=output_uri(job),
            runs=runs_uri(job),
            stores=trainer.Stores(
                data=_access(job, "data", profile, settings),
                model=_access(job, "model", profile, settings),
                output=_access(job, "output", profile, settings),
            ),
        )
    except ValueError as error:
        raise Unrenderable(str(error)) from None


def columns(spec: Columns | None) -> trainer.Columns:
    """The columns to read: the columns that the job names, else the defaults of the trainer."""
    return trainer.Columns(**(spec.model_dump(exclude_none=True) if spec else {}))


def method(job: FineTuneJob, model: trainer.ModelSource) -> trainer.Method:
    """The method.

    Args:
        job: the FineTuneJob.
        model: the model that `spec.model` resolves to.
    """
    spec = job.spec.method
    match spec.type:
        case "Full":
            return "Full"
        case "LoRA":
            lora, name = spec.lora or LoraSpec(), job.spec.output.served_base_name
            return trainer.Lora(
                rank=lora.rank,
                alpha=lora.alpha or _default_alpha(lora, lora.rank),
                scaling=lora.scaling,
                initialization=lora.initialization,
                weight_decomposition=lora.weight_decomposition,
                quantization=lora.quantization,
                dropout=lora.dropout,
                target_modules=tuple(lora.target_modules),
                exclude_modules=tuple(lora.exclude_modules or ()),
                module_ranks=tuple(
                    trainer.ModuleRank(
                        modules=tuple(item.modules),
                        rank=item.rank,
                        alpha=item.alpha or _default_alpha(lora, item.rank),
                    )
                    for item in lora.module_ranks or ()
                ),
                train_embeddings=lora.train_embeddings,
                added_tokens=tuple(lora.added_tokens or ()),
                merge=bool(job.spec.output.merge_adapter),
                served_base_name=None if name == trainer.base_name_of(model) else name,
            )
        case "FreezeLayers":
            if spec.freeze_layers is None:
                raise Unrenderable("method.type is FreezeLayers, but method.freezeLayers is not set")
            return trainer.FreezeLayers(train_last=spec.freeze_layers.train_last)


def _default_alpha(lora: LoraSpec, rank: int) -> int:
    """Twice the rank, or a constant with RankStabilized. Both scale the matrices of rank 16 by 2."""
    return 8 if lora.scaling == "RankStabilized" else 2 * rank


def spec_digest(job: FineTuneJob, run: trainer.Run) -> Digest:
    """SHA-256 of the run and of the spec, which includes fields outside the run: Secrets, memory, profile.

    The digest excludes the fields that may be changed at any time, because they do not affect the results.
    The run includes the values that the profile adds.
    """
    spec = job.spec.model_dump(
        mode="json", by_alias=True, exclude=outside_digest(FineTuneJobSpec), exclude_defaults=True
    )
    text = json.dumps([_remove_empty(spec), run.digest()], sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _remove_empty(spec: dict[str, Any]) -> dict[str, Any]:
    """Removes objects whose fields are all unset or have their defaults."""
    inner = {k: _remove_empty(v) if isinstance(v, dict) else v for k, v in spec.items()}
    return {key: value for key, value in inner.items() if value != {}}


def world(job: FineTuneJob) -> trainer.World:
    """The size of the gang. The default is one process for each GPU, or one process without GPUs."""
    resources = job.spec.resources
    return trainer.World(
        nodes=resources.nodes,
        processes_per_node=resources.processes_per_node or resources.gpus_per_node or 1,
        gpus_per_node=resources.gpus_per_node,
    )


def config(
    job: FineTuneJob,
    run: trainer.Run,
    stage: Stage,
    attempt: int,
    *,
    rendezvous: trainer.Rendezvous,
    hang_seconds: int,
    stop_seconds: int,
    serve_metrics: bool = False,
    chosen: Chosen | None = None,
    prepared: Digest | None = None,
    finish: bool = False,
    skipped_step: int | None = None,
    readback_stage: Stage | None = None,
    memory: trainer.MemoryLimits | None = None,
    checkpoints: trainer.Checkpoints | None = None,
    nodes: int | None = None,
    min_nodes: int | None = None,
    in_place_restarts: int | None = None,
) -> trainer.TrainConfig:
    """The config of the pods of one Job."""
    meta = job.metadata
    return trainer.TrainConfig(
        stage=stage,
        attempt=attempt,
        job=trainer.JobRef(
            namespace=meta["namespace"], name=meta["name"], uid=uid_of(job), generation=meta["generation"]
        ),
        run=run,
        chosen=chosen,
        prepared=prepared,
        finish=finish or None,
        skipped_step=skipped_step,
        readback_stage=readback_stage.value if readback_stage else None,
        rendezvous=rendezvous,
        hang_timeout_seconds=hang_seconds,
        preemption_grace_seconds=stop_seconds,
        serve_metrics=serve_metrics,
        memory=memory,
        checkpoints=checkpoints,
        nodes=nodes,
        min_nodes=min_nodes,
        in_place_restarts=in_place_restarts,
    )


def _access(
    job: FineTuneJob, role: trainer.StoreRole, profile: Profile, settings: Settings
) -> trainer.StoreAccess:
    store = store_of(job, role, profile, settings)
    if store is None:
        raise Unrenderable(f"no store for {role}")
    return trainer.StoreAccess(
        endpoint=store.endpoint, region=store.region, ca_bundle=store.ca_bundle_ref is not None
    )


def _scheme_host_port(endpoint: str) -> tuple[str, str | None, int]:
    parts = urlsplit(endpoint)
    return parts.scheme, parts.hostname, port_of(endpoint)
