"""What `make check` asks of the chart: helm lint, and all it renders against Kubernetes' own schemas."""

import json
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import binaries
from tests.chart.conftest import CHART, helm_template

ROOT = Path(__file__).parents[2]
BUNDLED = Path(str(files("kubernetes_validate"))) / "kubernetes-json-schema"
KUBERNETES = ("1.30.0", "1.31.0", "1.32.0", "1.33.0", "1.34.0", "1.35.0", "1.36.0")
SPREAD = [
    {
        "maxSkew": 1,
        "topologyKey": "rack",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "finetune-operator"}},
    }
]
TARGETS = {
    "crm": {"url": "https://crm.example", "secretName": "crm", "egress": {"cidrs": ["10.1.0.0/16"]}},
    "chat": {"url": "https://chat.example:8443", "secretName": "chat", "allJobs": True},
}
EVERYTHING = (
    "replicas=2",
    'settings.stores={"s3":{"endpoint":"https://s3.example","secretRef":{"name":"keys"}},"b":{"endpoint":"https://b"}}',
    'settings.profiles.gpu={"store":"s3","trainerImage":"reg.example/gpu-trainer:1"}',
    f"settings.notifications.targets={json.dumps(TARGETS)}",
    'networkPolicy.metricsFrom=[{"podSelector":{}}]',
    'networkPolicy.apiServerCidrs=["10.0.0.10/32"]',
    'networkPolicy.extraEgress=[{"ports":[{"port":3128}]}]',
    f"topologySpreadConstraints={json.dumps(SPREAD)}",
    'test.job={"task":"TextClassification"}',
    'test.secretNames=["s3"]',
    'imagePullSecrets=[{"name":"mirror"}]',
    'priorityClassName="system-cluster-critical"',
    'nodeSelector={"role":"system"}',
    'tolerations=[{"key":"system","operator":"Exists"}]',
    'extraEnv=[{"name":"HTTPS_PROXY","value":"http://proxy.example:3128"}]',
    'extraVolumes=[{"name":"ca","configMap":{"name":"company-ca"}}]',
    'extraVolumeMounts=[{"name":"ca","mountPath":"/etc/company"}]',
    'serviceAccount.annotations={"example":"yes"}',
    'podLabels={"team":"ml"}',
    'podAnnotations={"team":"ml"}',
    "dashboards.enabled=true",
)
INSTALLS = {
    "defaults": (),
    "everything": EVERYTHING,
    "namespaced": ('watchNamespaces=["team-a"]', "crds.install=false", "admissionPolicy.enabled=false"),
    "watched": ('watchNamespaces=["team-a","team-b"]', 'settings.podSecurity={"runAsUser":null}'),
}


def strict(schema: Any) -> Any:
    """A structural schema as kubeconform reads it: what is not named is refused."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    read = {key: strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        read["type"] = ["integer", "string"]
    if "properties" in read and read.get("type") == "object":
        read.setdefault("additionalProperties", False)
    return read


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kubernetes' schemas of what the chart renders, with their references made relative: no network."""
    folder = tmp_path_factory.mktemp("schemas")
    documents = [yaml.safe_load_all(helm_template(*values, tests=True)) for values in INSTALLS.values()]
    kinds = {document["kind"].lower() for each in documents for document in each if document}
    for version in KUBERNETES:
        source = BUNDLED / f"v{version}-local-strict"
        (folder / version).mkdir()
        for file in (source / "_definitions.json", *(f for kind in kinds for f in source.glob(f"{kind}-*"))):
            schema = json.loads(file.read_text().replace('"/api/_definitions.json#', '"_definitions.json#'))
            schema = {key: value for key, value in schema.items() if key not in {"$id", "$schema"}}
            (folder / version / file.name).write_text(json.dumps(schema))
    return folder


def kubeconform(document: str, schemas: Path) -> subprocess.CompletedProcess[str]:
    """Checks documents against the schemas in a folder."""
    location = f"{schemas}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    return subprocess.run(
        [binaries.path("kubeconform"), "-strict", "-summary", "-schema-location", location],
        input=document,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("install", INSTALLS)
def test_helm_lint_finds_nothing(install: str) -> None:
    values = [part for value in INSTALLS[install] for part in ("--set-json", value)]
    done = subprocess.run(
        [binaries.path("helm"), "lint", "--strict", "--kube-version", "1.30.0", *values, CHART],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_conforms(version: str, schemas: Path) -> None:
    rendered = "\n---\n".join(helm_template(*values, tests=True) for values in INSTALLS.values())
    done = kubeconform(rendered, schemas / version)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


def test_an_object_that_does_not_conform_is_found(schemas: Path) -> None:
    broken = helm_template().replace("revisionHistoryLimit: 3", "revisionHistoryLimits: 3")
    done = kubeconform(broken, schemas / KUBERNETES[-1])
    assert done.returncode != 0
    assert "revisionHistoryLimits" in done.stdout + done.stderr


def test_examples_conform_to_the_definition(tmp_path: Path) -> None:
    definition = yaml.safe_load((ROOT / "crds/finetunejobs.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    (tmp_path / "finetunejob-finetune-v1alpha1.json").write_text(json.dumps(schema))
    examples = sorted((ROOT / "examples").glob("*.yaml"))
    assert examples
    for example in examples:
        done = kubeconform(example.read_text(), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
