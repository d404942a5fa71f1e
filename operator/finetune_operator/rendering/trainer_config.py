"""A FineTuneJob as the trainer's input: what is asked for (config.Run) and each Job's config. Pure."""

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
"""A rendered config stays below this; it travels as an annotation, of which an object may have 256 KiB."""
STORE_ROLES: tuple[trainer.StoreRole, ...] = ("data", "model", "output")


@dataclass(frozen=True)
class ResolvedRun:
    """What attempts are made from: a job that can be run as it stands."""

    run: trainer.Run
    profile: Profile
    spec_digest: Digest
    """See `spec_digest` below; results count only for the same."""


class Unrenderable(ValueError):  # noqa: N818 - names what the job is
    """The job asks for what the trainer's language cannot say; the text names field, value and way out."""


def storage_of(job: FineTuneJob, role: trainer.StoreRole, profile: Profile) -> Storage | None:
    """The storage of a role: the job's own for the role, else the job's default, else the profile's store."""
    own = {
        "data": job.spec.dataset.storage,
        "model": job.spec.model.storage,
        "output": job.spec.output.storage,
    }
    default = Storage(store=profile.store) if profile.store else None
    return own[role] or job.spec.storage or default


def store_of(job: FineTuneJob, role: trainer.StoreRole, profile: Profile, settings: Settings) -> Store | None:
    """The endpoint, the certificate authority and the keys of a role, as one unit; None where none is set.

    The certificate authority, and keys that the job does not name, come from the store that has the endpoint.
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
    """The store of a role, as the trainer knows the store."""
    stores = run.stores
    return {"data": stores.data, "model": stores.model, "output": stores.output}[role]


def same_endpoint(one: str, other: str) -> bool:
    """Whether two URLs are of one scheme, host and port."""
    return _scheme_host_port(one) == _scheme_host_port(other)


def port_of(endpoint: str) -> int:
    """The port of an endpoint, written or implied by the scheme."""
    parts = urlsplit(endpoint)
    return parts.port or (443 if parts.scheme == "https" else 80)


def output_uri(job: FineTuneJob) -> str:
    """The published model's folder: `<output.uri>/<namespace>/<name>/<suffix or 8 of the uid>/`."""
    meta = job.metadata
    last = job.spec.output.suffix or uid_of(job).replace("-", "")[:8]
    return f"{job.spec.output.uri.rstrip('/')}/{meta['namespace']}/{meta['name']}/{last}/"


def runs_uri(job: FineTuneJob) -> str:
    """The folder of everything else of the run: `s3://<output bucket>/.finetune-runs/<namespace>/<uid>/`."""
    bucket = job.spec.output.uri.removeprefix("s3://").partition("/")[0]
    return f"s3://{bucket}/.finetune-runs/{job.metadata['namespace']}/{uid_of(job)}/"


def uid_of(job: FineTuneJob) -> str:
    """The job's uid."""
    return str(job.metadata["uid"])


def run(job: FineTuneJob, profile: Profile, model: trainer.ModelSource, settings: Settings) -> trainer.Run:
    """The run that a job asks for, the same for every stage and attempt.

    Args:
        job: the FineTuneJob.
        profile: the profile that the job names.
        model: the model that `spec.model` resolves to.
        settings: the operator's settings, which hold the stores.

    Raises:
        Unrenderable: a role has no store, or the trainer's language refuses a value.
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
            method=method(job),
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
    """The columns to read: those that the job names, else the trainer's defaults."""
    return trainer.Columns(**(spec.model_dump(exclude_none=True) if spec else {}))


def method(job: FineTuneJob) -> trainer.Method:
    """What of the model is trained; LoRA's alpha defaults to twice the rank."""
    spec = job.spec.method
    match spec.type:
        case "Full":
            return "Full"
        case "LoRA":
            lora = spec.lora or LoraSpec()
            return trainer.Lora(
                rank=lora.rank,
                alpha=lora.alpha or 2 * lora.rank,
                dropout=lora.dropout,
                target_modules=tuple(lora.target_modules),
                merge=bool(job.spec.output.merge_adapter),
            )
        case "FreezeLayers":
            if spec.freeze_layers is None:
                raise Unrenderable("method.type is FreezeLayers, but method.freezeLayers is not set")
            return trainer.FreezeLayers(train_last=spec.freeze_layers.train_last)


def spec_digest(job: FineTuneJob, run: trainer.Run) -> Digest:
    """SHA-256 of all that a person asks for, also of what is no part of the run: Secrets, memory, profile.

    Without the fields that may be changed at any time, which change nothing of what is made; with what the
    profile adds to the run.
    """
    spec = job.spec.model_dump(
        mode="json", by_alias=True, exclude=outside_digest(FineTuneJobSpec), exclude_defaults=True
    )
    text = json.dumps([_remove_empty(spec), run.digest()], sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _remove_empty(spec: dict[str, Any]) -> dict[str, Any]:
    """Without objects of which all fields are left out or have their defaults."""
    inner = {k: _remove_empty(v) if isinstance(v, dict) else v for k, v in spec.items()}
    return {key: value for key, value in inner.items() if value != {}}


def world(job: FineTuneJob) -> trainer.World:
    """The gang: processes default to one a GPU, or one on CPUs."""
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
    chosen: Chosen | None = None,
    prepared: Digest | None = None,
    readback_stage: Stage | None = None,
) -> trainer.TrainConfig:
    """The whole input of one Job's pods."""
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
        readback_stage=readback_stage.value if readback_stage else None,
        rendezvous=rendezvous,
        hang_timeout_seconds=hang_seconds,
        preemption_grace_seconds=stop_seconds,
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
