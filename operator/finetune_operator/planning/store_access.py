"""Decides which S3 stores a job may use, and with whose keys. Pure.

A store is one unit of endpoint, certificate authority and keys: pods never get the keys of a store together
with another endpoint.
"""

from urllib.parse import urlsplit

from finetune_operator.api import FineTuneJob, Storage
from finetune_operator.api.endpoint import why_refused
from finetune_operator.names import Reason
from finetune_operator.planning.types import Blocked
from finetune_operator.rendering.trainer_config import (
    STORE_ROLES,
    access_of,
    same_endpoint,
    storage_of,
    store_of,
)
from finetune_operator.settings import Profile, Settings, Store, allows
from finetune_trainer import config as trainer


def check(job: FineTuneJob, settings: Settings, profile: Profile) -> Blocked | None:
    """The first store of a job that is missing or that the job may not use."""
    missing = [role for role in STORE_ROLES if storage_of(job, role, profile) is None]
    if missing:
        return Blocked(
            Reason.STORAGE_UNSET,
            f"No store is set for {' and '.join(missing)}. In spec.storage set {_choices(job, settings)}; or"
            f" ask for a default store in the operator's profile {job.spec.resources.profile}.",
        )
    for decide in (_check_endpoint, _check_store, _check_keys, _check_tls):
        for field, storage in _storages_by_field(job, profile).items():
            if refusal := decide(job, settings, field, storage):
                return refusal
    return None


def check_unchanged(
    job: FineTuneJob, settings: Settings, profile: Profile, run: trainer.Run
) -> Blocked | None:
    """Holds a run whose stores have other endpoints in the settings than when training began."""
    for role in STORE_ROLES:
        before, now = access_of(run, role).endpoint, store_of(job, role, profile, settings)
        if now and not same_endpoint(now.endpoint, before):
            return Blocked(
                Reason.STORE_CHANGED,
                f"Training began with {role} in the store {before}, and the operator's settings now name"
                f" {now.endpoint}. Keys of one store are never used for another: ask for the endpoint to be"
                " put back in settings.stores, or apply a job of another name.",
                passes=True,
            )
    return None


def _storages_by_field(job: FineTuneJob, profile: Profile) -> dict[str, Storage]:
    """The storages of a run, by the field of the spec in which a user changes the storage."""
    own = {
        "data": job.spec.dataset.storage,
        "model": job.spec.model.storage,
        "output": job.spec.output.storage,
    }
    fields = {"data": "spec.dataset.storage", "model": "spec.model.storage", "output": "spec.output.storage"}
    storages = ((fields[r] if own[r] else "spec.storage", storage_of(job, r, profile)) for r in STORE_ROLES)
    return {field: storage for field, storage in storages if storage is not None}


def _check_endpoint(job: FineTuneJob, settings: Settings, field: str, storage: Storage) -> Blocked | None:
    if storage.endpoint is None:
        return None
    if why := why_refused(storage.endpoint):
        return Blocked(Reason.ENDPOINT_FORBIDDEN, f"{field}.endpoint: {storage.endpoint}: {why}.")
    if settings.other_endpoints_are_allowed:
        return None
    return Blocked(
        Reason.ENDPOINT_FORBIDDEN,
        f"{field}.endpoint: {storage.endpoint}: jobs may only use the stores of the operator's settings."
        f" Instead of endpoint set {_choices(job, settings)}.",
    )


def _check_store(job: FineTuneJob, settings: Settings, field: str, storage: Storage) -> Blocked | None:
    if storage.endpoint is not None:
        return None
    namespace, name = job.metadata["namespace"], storage.store or ""
    if name not in settings.stores:
        return Blocked(
            Reason.STORE_UNKNOWN,
            f"{field}.store: there is no store {name!r}. Set {_choices(job, settings)}.",
        )
    if not allows(settings.stores[name].allowed_namespaces, namespace):
        return Blocked(
            Reason.STORE_FORBIDDEN,
            f"{field}.store: jobs of namespace {namespace} may not use store {name!r}. Set"
            f" {_choices(job, settings)}.",
        )
    return None


def _check_keys(job: FineTuneJob, settings: Settings, field: str, storage: Storage) -> Blocked | None:
    """Requires that a Secret is named, and that no store with another endpoint owns the Secret."""
    store = None if storage.endpoint else settings.stores[storage.store or ""]
    if storage.secret_ref is None:
        if store and store.secret_ref:
            return None
        return Blocked(
            Reason.STORAGE_UNSET,
            f"{field}: no Secret is named with the keys of"
            f" {f'store {storage.store}' if store else storage.endpoint}. Set {field}.secretRef"
            f"{f' (and store: {storage.store})' if store else ''}.",
        )
    endpoint = store.endpoint if store else storage.endpoint or ""
    for name, other in _allowed_stores(job, settings):
        owned = other.secret_ref and other.secret_ref.name == storage.secret_ref.name
        if (
            owned
            and not same_endpoint(other.endpoint, endpoint)
            and not (store and _is_default(store, storage))
        ):
            return Blocked(
                Reason.KEYS_FORBIDDEN,
                f"{field}.secretRef: Secret {storage.secret_ref.name!r} holds the keys of store {name!r},"
                f" which are never used for another endpoint, here {endpoint}. Name a Secret of your own, or"
                f" set store: {name}.",
            )
    return None


def _check_tls(_: FineTuneJob, settings: Settings, field: str, storage: Storage) -> Blocked | None:
    endpoint = storage.endpoint or settings.stores[storage.store or ""].endpoint
    if not settings.require_tls or urlsplit(endpoint).scheme == "https":
        return None
    return Blocked(
        Reason.STORAGE_INSECURE,
        f"{field}: the endpoint is {endpoint}: plain http is refused here. Use https, or set requireTls:"
        " false in the operator's settings.",
    )


def _is_default(store: Store, storage: Storage) -> bool:
    """Whether a job names the Secret that the settings name for the store."""
    return bool(store.secret_ref and storage.secret_ref and store.secret_ref.name == storage.secret_ref.name)


def _allowed_stores(job: FineTuneJob, settings: Settings) -> list[tuple[str, Store]]:
    """The stores that jobs of the namespace may use, by name."""
    namespace = job.metadata["namespace"]
    return [(n, s) for n, s in sorted(settings.stores.items()) if allows(s.allowed_namespaces, namespace)]


def _choices(job: FineTuneJob, settings: Settings) -> str:
    """The values of `store` and `endpoint` that a job of the namespace may set."""
    stores = ", ".join(name for name, _ in _allowed_stores(job, settings))
    choices = [f"store to one of these: {stores}"] if stores else []
    if settings.other_endpoints_are_allowed:
        choices.append("endpoint and secretRef")
    return ", or ".join(choices) or "nothing: the operator's settings name no store for this namespace"
