"""The operator's Deployment and what stands around it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.runtime.api_client import SERVICE_ACCOUNT
from finetune_operator.settings import Dns, Settings
from tests.chart.conftest import CHART, RefusedValuesError, the

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
ROOT = Path(__file__).parents[2]
DIGEST = f"sha256:{'a' * 64}"


def pod(manifests: list[Manifest]) -> Manifest:
    spec: Manifest = the("Deployment", manifests)["spec"]["template"]["spec"]
    return spec


def image(render: Render, *values: str) -> str:
    name: str = pod(render(*values))["containers"][0]["image"]
    return name


def settings(manifests: list[Manifest]) -> Settings:
    config = next(m for m in manifests if m["kind"] == "ConfigMap")
    return Settings.model_validate(yaml.safe_load(config["data"]["settings.yaml"]))


def test_pod_is_restricted_with_a_read_only_root(render: Render) -> None:
    spec = pod(render())
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    allowed = {"configMap", "emptyDir", "projected", "name"}
    assert all(set(volume) <= allowed for volume in spec["volumes"])


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_the_token_of_the_api_expires_and_is_where_the_client_reads_it(render: Render, kind: str) -> None:
    manifests = render("serviceAccount.tokenSeconds=900", tests=True)
    spec = the(kind, manifests)["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    (volume,) = [v["projected"]["sources"] for v in spec["volumes"] if v["name"] == "api-access"]
    token, authority, namespace = volume
    assert token["serviceAccountToken"] == {"path": "token", "expirationSeconds": 900}
    assert authority["configMap"]["name"] == "kube-root-ca.crt"
    (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "api-access"]
    assert mount["readOnly"] is True
    assert Path(mount["mountPath"]) == SERVICE_ACCOUNT
    paths = {
        "token",
        authority["configMap"]["items"][0]["path"],
        namespace["downwardAPI"]["items"][0]["path"],
    }
    assert paths == {"token", "ca.crt", "namespace"}
    assert all(
        account["automountServiceAccountToken"] is False
        for account in manifests
        if account["kind"] == "ServiceAccount"
    )


def test_replicas_prefer_different_nodes_and_zones(render: Render) -> None:
    assert "topologySpreadConstraints" not in pod(render())
    manifests = render("replicas=2")
    constraints = pod(manifests)["topologySpreadConstraints"]
    assert [c["topologyKey"] for c in constraints] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    labels = the("Deployment", manifests)["spec"]["template"]["metadata"]["labels"].items()
    for constraint in constraints:
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", "one node is enough"
        assert constraint["labelSelector"]["matchLabels"].items() <= labels
    own = [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]
    assert (
        pod(render("replicas=2", f"topologySpreadConstraints={json.dumps(own)}"))["topologySpreadConstraints"]
        == own
    )


def test_probes_ask_the_ports_that_the_settings_name(render: Render) -> None:
    manifests = render()
    (container,) = pod(manifests)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {
        "metrics": settings(manifests).metrics_port,
        "health": settings(manifests).health_port,
    }
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert container[probe]["httpGet"]["port"] == "health"


def test_operator_reads_the_settings_that_the_chart_writes(render: Render) -> None:
    read = settings(render('image.pullPolicy="Always"', 'trainer.imagePullSecrets=[{"name":"mirror"}]'))
    assert read == Settings(
        operator_namespace="finetune-system",
        trainer_image="finetune-trainer:0.1.0",
        slim_trainer_image="finetune-trainer-slim:0.1.0",
        image_pull_policy="Always",
        image_pull_secrets=("mirror",),
    )


def test_profiles_reach_the_operator(render: Render) -> None:
    profile = {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "train": {"cpu": "16", "memory": "200Gi"},
        "sharedMemory": "32Gi",
        "store": "minio",
        "allowedNamespaces": ["research", "team-*"],
        "env": {"NCCL_IB_HCA": "mlx5"},
        "extendedResources": {"rdma/hca": 8},
        "ipcLock": True,
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    }
    store = {
        "endpoint": "https://minio.storage.svc:443",
        "region": "eu",
        "secretRef": {"name": "s3"},
        "caBundleRef": {"name": "company-ca"},
        "egress": {"cidrs": ["10.20.0.0/24"], "namespaces": ["storage"], "ports": [9000]},
        "allowedNamespaces": ["*"],
    }
    values = (f"settings.profiles.h100={json.dumps(profile)}", f"settings.stores.minio={json.dumps(store)}")
    read = settings(render(*values))
    assert set(read.profiles) == {"default", "h100"}
    assert read.stores["minio"].model_dump(by_alias=True, exclude_unset=True, mode="json") == store
    assert not read.other_endpoints_are_allowed
    assert settings(render()).other_endpoints_are_allowed
    assert settings(render(*values, "settings.allowOtherEndpoints=true")).other_endpoints_are_allowed
    assert read.profiles["h100"].model_dump(by_alias=True, exclude_unset=True, mode="json") == profile


def test_a_profile_with_an_unknown_store_is_refused(render: Render) -> None:
    with pytest.raises(
        RefusedValuesError, match=r'settings.profiles.gpu.store: settings.stores has no store "s3"'
    ):
        render('settings.profiles.gpu={"store":"s3"}')


IDS = ("runAsUser", "runAsGroup", "fsGroup")


def test_ids_are_the_same_for_the_operator_and_the_pods_of_jobs(render: Render) -> None:
    manifests = render("settings.podSecurity.runAsUser=2000", "settings.podSecurity.fsGroup=3000")
    ids = {"runAsUser": 2000, "runAsGroup": 10001, "fsGroup": 3000}
    assert {i: pod(manifests)["securityContext"][i] for i in IDS} == ids
    assert settings(manifests).pod_security.model_dump(by_alias=True) == ids


def test_openshift_chooses_the_ids_and_has_dns_of_its_own(render: Render) -> None:
    document = (ROOT / "docs/admin-guide.md").read_text().partition("# values for OpenShift\n")[2]
    values = yaml.safe_load(document.partition("```")[0])["settings"]
    manifests = render(
        *(f"settings.{key}={json.dumps(value)}" for key, value in values.items()),
    )
    read = settings(manifests)
    assert set(read.pod_security.model_dump().values()) == {None}
    assert not set(IDS) & set(pod(manifests)["securityContext"])
    assert pod(manifests)["securityContext"]["runAsNonRoot"] is True
    labels = {"dns.operator.openshift.io/daemonset-dns": "default"}
    assert read.dns == Dns(ports=(53, 5353), namespace="openshift-dns", pod_labels=labels)
    egress = the("NetworkPolicy", manifests)["spec"]["egress"]
    assert [port["port"] for port in egress[1]["ports"]] == [53, 53, 5353, 5353]
    (peer,) = egress[2]["to"]
    assert peer["podSelector"]["matchLabels"] == labels
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "openshift-dns"}


def test_the_values_of_a_locked_down_installation_are_what_they_say(render: Render) -> None:
    files = (CHART / "values-secure.yaml", ROOT / "docs/security/locked-down.yaml")
    manifests = render(files=files)
    read = settings(manifests)
    assert read.stores
    assert not read.other_endpoints_are_allowed
    assert read.require_tls
    assert all(store.egress.ports for store in read.stores.values())
    assert all(store.egress.cidrs or store.egress.namespaces for store in read.stores.values())
    assert all("*" not in store.allowed_namespaces for store in read.stores.values())
    assert read.limit_ephemeral_storage
    assert read.image_pull_policy == "Always"
    assert "@sha256:" in read.trainer_image
    policies = [m for m in manifests if m["kind"] == "ValidatingAdmissionPolicy"]
    assert {m["metadata"]["name"].removeprefix("finetune-operator-") for m in policies} >= {
        "secret-access",
        "cleanup-records",
        "own-jobs",
    }
    assert all(m["spec"]["failurePolicy"] == "Fail" for m in policies)
    assert the("Deployment", manifests)["spec"]["replicas"] == 2
    assert the("PodDisruptionBudget", manifests)["spec"]["maxUnavailable"] == 1
    network = the("NetworkPolicy", manifests)["spec"]
    assert network["ingress"][0]["from"]
    assert network["egress"][0]["to"], "only the addresses of the API server"
    assert read.metrics.tls
    assert read.metrics.authentication
    cluster_rules = [rule for m in manifests if m["kind"] == "ClusterRole" for rule in m["rules"]]
    assert all(rule["verbs"] == ["create"] for rule in cluster_rules if "resources" in rule)
    assert {
        name for rule in cluster_rules for name in rule.get("resources", rule.get("nonResourceURLs"))
    } == {
        "tokenreviews",
        "subjectaccessreviews",
        "/metrics",
    }


def test_the_secure_values_alone_are_refused_until_the_images_have_digests(render: Render) -> None:
    with pytest.raises(RefusedValuesError, match=r"global\.requireDigests is true"):
        render(files=(CHART / "values-secure.yaml",))


def test_watched_namespaces_reach_the_operator(render: Render) -> None:
    assert settings(render('watchNamespaces=["a","b"]')).namespaces == ("a", "b")


def test_changed_settings_roll_the_pods(render: Render) -> None:
    def checksum(*values: str) -> str:
        template = the("Deployment", render(*values))["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/settings"]
        return found

    assert checksum() == checksum("replicas=2")
    assert checksum() != checksum("settings.maxRestarts=1")
    assert checksum() != checksum('trainer.image.tag="2"')


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), "finetune-operator:0.1.0"),
        (('image.tag="1.2"',), "finetune-operator:1.2"),
        ((f'image.digest="{DIGEST}"',), f"finetune-operator@{DIGEST}"),
        (('image.tag="1.2"', f'image.digest="{DIGEST}"'), f"finetune-operator:1.2@{DIGEST}"),
        (('global.imageRegistry="reg.example:5000"',), "reg.example:5000/finetune-operator:0.1.0"),
        (
            ('global.imageRegistry="reg.example/mirror/"', f'image.digest="{DIGEST}"'),
            f"reg.example/mirror/finetune-operator@{DIGEST}",
        ),
    ],
)
def test_image_by_tag_and_digest(render: Render, values: tuple[str, ...], expected: str) -> None:
    assert image(render, *values) == expected


def test_trainers_images_follow_registry_and_digest(render: Render) -> None:
    values = (f'trainer.image.digest="{DIGEST}"', f'trainer.slimImage.digest="{DIGEST}"')
    read = settings(render('global.imageRegistry="reg.example"', *values))
    assert read.trainer_image == f"reg.example/finetune-trainer@{DIGEST}"
    assert read.slim_trainer_image == f"reg.example/finetune-trainer-slim@{DIGEST}"


PROFILES = {
    "gpu": {"trainerImage": "gpu-trainer:1"},
    "own": {"trainerImage": "reg.other:5000/team/trainer:2"},
}


def test_the_registry_is_prefixed_to_every_image_without_a_registry_of_its_own(render: Render) -> None:
    values = ('global.imageRegistry="reg.example/mirror"', f"settings.profiles={json.dumps(PROFILES)}")
    manifests = render(*values, tests=True)
    profiles = settings(manifests).profiles
    assert profiles["gpu"].trainer_image == "reg.example/mirror/gpu-trainer:1"
    assert profiles["own"].trainer_image == "reg.other:5000/team/trainer:2"
    own = render(*values, 'image.repository="reg.other:5000/team/operator"', tests=True)
    for kind in ("Deployment", "Job"):
        spec = the(kind, own)["spec"]["template"]["spec"]
        assert spec["containers"][0]["image"] == "reg.other:5000/team/operator:0.1.0"
    (policy,) = [
        m
        for m in manifests
        if m["kind"] == "ValidatingAdmissionPolicy" and m["metadata"]["name"].endswith("-own-jobs")
    ]
    names = ("finetune-trainer", "finetune-trainer-slim", "gpu-trainer")
    allowed = [f"reg.example/mirror/{name}" for name in names]
    expression = policy["spec"]["variables"][3]["expression"]
    assert expression == str([*allowed, "reg.other:5000/team/trainer"])


BY_DIGEST = {
    name: f'{name}="{DIGEST}"'
    for name in ("image.digest", "trainer.image.digest", "trainer.slimImage.digest")
}


@pytest.mark.parametrize("missing", BY_DIGEST)
def test_an_image_without_the_required_digest_is_refused(render: Render, missing: str) -> None:
    values = [value for name, value in BY_DIGEST.items() if name != missing]
    with pytest.raises(RefusedValuesError, match=f"{missing}: global.requireDigests is true"):
        render("global.requireDigests=true", *values)


def test_an_image_of_a_profile_without_the_required_digest_is_refused(render: Render) -> None:
    profiles = f"settings.profiles={json.dumps(PROFILES)}"
    message = r"settings\.profiles\.gpu\.trainerImage: global.requireDigests is true"
    with pytest.raises(RefusedValuesError, match=message):
        render("global.requireDigests=true", *BY_DIGEST.values(), profiles)


def test_images_with_the_required_digests_are_accepted(render: Render) -> None:
    profiles = {"gpu": {"trainerImage": f"reg.example/gpu-trainer@{DIGEST}"}}
    values = (*BY_DIGEST.values(), f"settings.profiles={json.dumps(profiles)}")
    read = settings(render("global.requireDigests=true", *values))
    assert read.profiles["gpu"].trainer_image == f"reg.example/gpu-trainer@{DIGEST}"


def test_disruption_budget_only_where_a_pod_can_be_spared(render: Render) -> None:
    def budgets(*values: str) -> list[Manifest]:
        return [m for m in render(*values) if m["kind"] == "PodDisruptionBudget"]

    assert not budgets()
    assert len(budgets("replicas=2")) == 1
    assert not budgets("replicas=2", "podDisruptionBudget.enabled=false")


def test_metrics_service_and_budget_select_the_operators_pods(render: Render) -> None:
    manifests = render("replicas=2")
    labels = the("Deployment", manifests)["spec"]["template"]["metadata"]["labels"].items()
    assert the("Service", manifests)["spec"]["selector"].items() <= labels
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert the(kind, manifests)["spec"][key]["matchLabels"].items() <= labels


def test_selector_stays_the_same_across_versions(render: Render) -> None:
    # A Deployment's selector cannot be changed; an upgrade would fail.
    assert set(the("Deployment", render())["spec"]["selector"]["matchLabels"]) == {
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
    }


def test_network_policy_names_the_scrapers(render: Render) -> None:
    scrapers = '[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}]'
    policy = the("NetworkPolicy", render(f"networkPolicy.metricsFrom={scrapers}"))
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"]


def test_every_object_of_the_namespace_names_it(render: Render) -> None:
    cluster_scoped = {
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    for manifest in render("replicas=2", namespace="elsewhere", tests=True):
        if manifest["kind"] not in cluster_scoped:
            assert manifest["metadata"]["namespace"] == "elsewhere", manifest["kind"]
