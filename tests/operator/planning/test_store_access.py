"""The stores, keys and profiles that a job may use, and attacks."""

from typing import Any

import pytest

from finetune_operator.names import Reason
from finetune_operator.objects import Manifest
from finetune_operator.planning.resolution import resolve
from finetune_operator.planning.types import Blocked, Observed
from finetune_operator.rendering import jobs
from finetune_operator.rendering.cleanup_record import cleanup_record, read_record
from finetune_operator.rendering.trainer_config import ResolvedRun, store_of
from finetune_trainer import config as trainer
from tests.operator import scenes
from tests.operator.api.test_endpoint import REFUSED

SITE = "https://minio.storage.svc:9000"
OWN = {"endpoint": "https://tenant.example", "secretRef": {"name": "own"}}
STORES: Manifest = {
    "minio": {"endpoint": SITE, "secretRef": {"name": "site-keys"}, "caBundleRef": {"name": "site-ca"}},
    "archive": {"endpoint": "https://archive.example"},
    "hr": {
        "endpoint": "https://hr.example",
        "secretRef": {"name": "hr-keys"},
        "allowedNamespaces": ["hr", "hr-*"],
    },
}
SETTINGS: Manifest = {"stores": STORES, "profiles": {"default": {"store": "minio"}}}


def job(spec: Manifest, namespace: str = "demo") -> Any:
    """A job like BASE with only the storages of `spec`."""
    if "storage" in spec:
        spec = spec | {"storage": dict.fromkeys(("endpoint", "secretRef", "caBundleRef")) | spec["storage"]}
    return scenes.job_of({"metadata": {"namespace": namespace}, "spec": {"storage": None} | spec})


def resolve_spec(
    spec: Manifest, changes: Manifest | None = None, namespace: str = "demo"
) -> ResolvedRun | Blocked:
    return resolve(job(spec, namespace), Observed(), scenes.settings(scenes.merged(SETTINGS, changes or {})))


def resolved(spec: Manifest, changes: Manifest | None = None, namespace: str = "demo") -> trainer.Stores:
    found = resolve_spec(spec, changes, namespace)
    assert isinstance(found, ResolvedRun), found
    return found.run.stores


def blocked(spec: Manifest, changes: Manifest | None = None, namespace: str = "demo") -> tuple[str, str]:
    found = resolve_spec(spec, changes, namespace)
    assert isinstance(found, Blocked)
    assert not found.passes
    return found.reason, found.message


def keys(spec: Manifest, changes: Manifest | None = None) -> dict[str, tuple[str, str]]:
    """Endpoint and Secret of each role."""
    configured = scenes.settings(scenes.merged(SETTINGS, changes or {}))
    profile = configured.profiles["default"]
    found = {}
    for role in ("data", "model", "output"):
        store = store_of(job(spec), role, profile, configured)
        assert store
        assert store.secret_ref
        found[role] = (store.endpoint, store.secret_ref.name)
    return found


def test_a_job_without_storage_gets_the_store_of_its_profile() -> None:
    stores = resolved({})
    assert stores.data == stores.model == stores.output
    assert stores.data == trainer.StoreAccess(endpoint=SITE, ca_bundle=True)
    assert set(keys({}).values()) == {(SITE, "site-keys")}


def test_a_job_may_bring_keys_of_its_own_to_a_store() -> None:
    spec = {"storage": {"store": "minio", "secretRef": {"name": "own"}}}
    assert resolved(spec).output.endpoint == SITE
    assert set(keys(spec).values()) == {(SITE, "own")}


def test_a_store_without_keys_needs_the_keys_of_the_job() -> None:
    reason, message = blocked({"storage": {"store": "archive"}})
    assert reason == Reason.STORAGE_UNSET
    assert "spec.storage: no Secret is named with the keys of store archive" in message
    assert "Set spec.storage.secretRef (and store: archive)" in message
    assert resolved({"storage": {"store": "archive", "secretRef": {"name": "own"}}})


def test_roles_may_use_different_stores_each_with_its_own_keys() -> None:
    spec = {"dataset": {"storage": {"store": "archive", "secretRef": {"name": "reader"}}}}
    assert keys(spec) == {
        "data": ("https://archive.example", "reader"),
        "model": (SITE, "site-keys"),
        "output": (SITE, "site-keys"),
    }


def test_an_unknown_store_is_refused_with_the_stores_of_the_namespace() -> None:
    reason, message = blocked({"storage": {"store": "minoi"}})
    assert reason == Reason.STORE_UNKNOWN
    assert (
        "spec.storage.store: there is no store 'minoi'. Set store to one of these: archive, minio." in message
    )


def test_endpoints_of_jobs_are_allowed_as_long_as_no_store_is_set() -> None:
    alone = {"stores": dict.fromkeys(STORES), "profiles": {"default": {"store": None}}}
    assert resolved({"storage": OWN}, alone).output.endpoint == OWN["endpoint"]
    assert blocked({"storage": OWN})[0] == Reason.ENDPOINT_FORBIDDEN
    assert resolved({"storage": OWN}, {"allowOtherEndpoints": True})
    assert blocked({"storage": OWN}, alone | {"allowOtherEndpoints": False})[0] == Reason.ENDPOINT_FORBIDDEN


ROLES = ("dataset", "model", "output")


@pytest.mark.parametrize("field", ROLES)
def test_attack_rows_read_with_the_keys_of_the_site_go_to_a_foreign_endpoint(field: str) -> None:
    reason, message = blocked({field: {"storage": OWN}})
    assert reason == Reason.ENDPOINT_FORBIDDEN
    assert f"spec.{field}.storage.endpoint: https://tenant.example: jobs may only use the stores" in message
    assert "Instead of endpoint set store to one of these: archive, minio." in message


def test_attack_a_store_of_the_site_is_named_by_endpoint() -> None:
    for endpoint in (SITE, f"{SITE}/"):
        storage = {"endpoint": endpoint, "secretRef": {"name": "own"}}
        assert blocked({"storage": storage})[0] == Reason.ENDPOINT_FORBIDDEN


@pytest.mark.parametrize("field", ROLES)
def test_attack_the_keys_of_the_site_are_named_for_a_foreign_endpoint(field: str) -> None:
    stolen = OWN | {"secretRef": {"name": "site-keys"}}
    reason, message = blocked({field: {"storage": stolen}}, {"allowOtherEndpoints": True})
    assert reason == Reason.KEYS_FORBIDDEN
    assert f"spec.{field}.storage.secretRef: Secret 'site-keys' holds the keys of store 'minio'" in message
    assert (
        blocked({field: {"storage": {"store": "archive", "secretRef": {"name": "site-keys"}}}})[0] == reason
    )


def test_with_other_endpoints_allowed_keys_of_the_site_stay_with_the_site() -> None:
    allowed = {"allowOtherEndpoints": True}
    assert resolved({"output": {"storage": OWN}}, allowed).data.endpoint == SITE
    assert keys({"output": {"storage": OWN}}, allowed) == {
        "data": (SITE, "site-keys"),
        "model": (SITE, "site-keys"),
        "output": ("https://tenant.example", "own"),
    }


def test_two_stores_may_share_a_secret_where_the_settings_say_so() -> None:
    shared = {"stores": {"archive": {"secretRef": {"name": "site-keys"}}}}
    assert resolved({"storage": {"store": "archive"}}, shared)
    assert resolved({"storage": {"store": "archive", "secretRef": {"name": "site-keys"}}}, shared)


def test_a_secret_of_the_same_name_where_the_store_is_not_open_is_the_tenants_own() -> None:
    storage = OWN | {"secretRef": {"name": "hr-keys"}}
    assert resolved({"storage": storage}, {"allowOtherEndpoints": True})


@pytest.mark.parametrize("field", ["storage", *ROLES])
def test_attack_the_store_of_another_team(field: str) -> None:
    named = {"store": "hr"}
    reason, message = blocked({field: named if field == "storage" else {"storage": named}})
    assert reason == Reason.STORE_FORBIDDEN
    assert "jobs of namespace demo may not use store 'hr'" in message
    assert "Set store to one of these: archive, minio." in message


@pytest.mark.parametrize("namespace", ["hr", "hr-eu"])
def test_a_store_is_open_to_the_namespaces_that_it_allows(namespace: str) -> None:
    assert resolved({"storage": {"store": "hr"}}, namespace=namespace)


@pytest.mark.parametrize("namespace", ["h", "hrx", "xhr", "x-hr-eu"])
def test_attack_namespaces_with_similar_names(namespace: str) -> None:
    assert blocked({"storage": {"store": "hr"}}, namespace=namespace)[0] == Reason.STORE_FORBIDDEN


def test_attack_the_profile_of_another_team() -> None:
    profiles = {"profiles": {"h100": {"allowedNamespaces": ["research-*"]}, "cpu": {}}}
    spec = {"resources": {"profile": "h100"}, "storage": {"store": "minio"}}
    reason, message = blocked(spec, profiles)
    assert reason == Reason.PROFILE_FORBIDDEN
    assert message == (
        "spec.resources.profile: jobs of namespace demo may not use profile 'h100'."
        " Name one of these: cpu, default."
    )
    assert resolved(spec, profiles, namespace="research-eu")


def test_an_unknown_profile_is_refused_with_the_profiles_of_the_namespace() -> None:
    profiles = {"profiles": {"h100": {"allowedNamespaces": ["research"]}}}
    reason, message = blocked({"resources": {"profile": "h200"}}, profiles)
    assert (reason, message) == (
        Reason.PROFILE_UNKNOWN,
        "spec.resources.profile: there is no profile 'h200'. Name one of these: default.",
    )
    nobody = {"profiles": {"default": {"allowedNamespaces": []}}}
    assert "Ask the admin of the operator for one." in blocked({}, nobody)[1]


@pytest.mark.parametrize(("endpoint", "why"), REFUSED)
@pytest.mark.parametrize("field", ["storage", "output"])
def test_attack_the_metadata_address_of_the_cloud(field: str, endpoint: str, why: str) -> None:
    storage = OWN | {"endpoint": endpoint}
    spec = {"storage": storage} if field == "storage" else {field: {"storage": storage}}
    reason, message = blocked(spec, {"allowOtherEndpoints": True, "requireTls": False})
    assert reason == Reason.ENDPOINT_FORBIDDEN
    assert why in message


def test_plain_http_is_refused_for_stores_and_endpoints() -> None:
    plain = {"stores": {"minio": {"endpoint": "http://minio.storage:9000"}}}
    assert blocked({}, plain)[0] == Reason.STORAGE_INSECURE
    assert resolved({}, plain | {"requireTls": False})
    own = {"storage": OWN | {"endpoint": "http://tenant.example"}}
    assert blocked(own, {"allowOtherEndpoints": True})[0] == Reason.STORAGE_INSECURE


def trained(configured: Any, spec: Manifest) -> Any:
    """A job whose first Train attempt has failed, and its observed state."""
    attempts = [{"stage": "Prepare", "outcome": "Succeeded"}, {"stage": "Train", "outcome": "Failed"}]
    changes = {"spec": {"storage": None} | spec, "status": {"attempts": attempts}}
    made = scenes.job_of(changes, configured=configured)
    return made, scenes.observed_of(made, {"shared": ["cleanup"]}, configured)


def test_attack_by_mistake_a_store_gets_another_endpoint_while_a_run_trains() -> None:
    made, seen = trained(scenes.settings(SETTINGS), {})
    moved = scenes.settings(
        scenes.merged(SETTINGS, {"stores": {"minio": {"endpoint": "https://new.example"}}})
    )

    found = resolve(made, seen, moved)
    assert isinstance(found, Blocked)
    assert (found.reason, found.passes) == (Reason.STORE_CHANGED, True)
    assert f"Training began with data in the store {SITE}" in found.message
    assert isinstance(resolve(made, seen, scenes.settings(SETTINGS)), ResolvedRun)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"allowOtherEndpoints": False}, Reason.ENDPOINT_FORBIDDEN),
        ({"profiles": {"default": {"allowedNamespaces": ["other"]}}}, Reason.PROFILE_FORBIDDEN),
        ({"profiles": {"default": {"maxNodes": 1}}}, Reason.SPEC_INVALID),
        ({"profiles": {"default": None, "other": {}}}, Reason.PROFILE_UNKNOWN),
    ],
)
def test_settings_that_change_after_training_began_hold_a_run_and_do_not_fail_it(
    changes: Manifest, reason: str
) -> None:
    base = {"stores": STORES, "allowOtherEndpoints": True, "profiles": {"default": {}}}
    made, seen = trained(scenes.settings(base), {"storage": OWN})
    assert isinstance(resolve(made, seen, scenes.settings(base)), ResolvedRun)

    found = resolve(made, seen, scenes.settings(scenes.merged(base, changes)))
    assert isinstance(found, Blocked)
    assert (found.reason, found.passes) == (reason, True)
    assert (
        "Training has begun, so the job waits until the operator's settings allow this again."
        in found.message
    )


def test_keys_are_never_mounted_beside_another_endpoint() -> None:
    """A cleanup whose store got another endpoint gets no keys."""
    before, made = scenes.settings(SETTINGS), job({})
    moved = scenes.settings(
        scenes.merged(SETTINGS, {"stores": {"minio": {"endpoint": "https://new.example"}}})
    )
    for configured, mounted in ((before, True), (moved, False)):
        record = read_record(cleanup_record(made, scenes.asked_of(made, before), 1, "uid"))
        spec = jobs.cleanup_job(record, configured)["spec"]["template"]["spec"]
        assert ("site-keys" in str(spec)) == mounted
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == volumes
