"""values.yaml, its schema and the README agree; what is misspelt or impossible is refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from finetune_operator.api import CaBundleRef, SecretRef
from finetune_operator.settings import (
    LEASE_MARGIN_SECONDS,
    Deadlines,
    Dns,
    Egress,
    Lease,
    MetricsSettings,
    PodSecurity,
    Profile,
    Settings,
    Store,
)

Render = Callable[..., list[dict[str, Any]]]
ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/finetune-operator"
SET_BY_THE_CHART = {
    "namespaces",
    "operatorNamespace",
    "trainerImage",
    "slimTrainerImage",
    "imagePullPolicy",
    "imagePullSecrets",
    "metricsPort",
    "healthPort",
}


def schema() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return document


def fields(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def values_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("values_table", ROOT / "charts/values_table.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("replica=2", "replica"),
        ("replicas=0", "replicas"),
        ('replicas="two"', "replicas"),
        ('image.pullPolicy="Sometimes"', "pullPolicy"),
        ('image.digest="sha256:abc"', "digest"),
        ('image.repository=""', "repository"),
        ('global.imageRegistry="https://reg.example"', "imageRegistry"),
        ('watchNamespaces="team-a"', "watchNamespaces"),
        ('watchNamespaces=["Team_A"]', "watchNamespaces"),
        ("settings.maxRestart=1", "maxRestart"),
        ("settings.maxRestarts=21", "maxRestarts"),
        ("settings.pollSeconds=0", "pollSeconds"),
        ('settings.profiles.gpu.podLabels={"finetune.dev/role":"run"}', "finetune.dev/role"),
        ('settings.profiles.gpu.podLabels={"x":"a b"}', "podLabels"),
        (
            'settings.profiles.gpu.podAnnotations={"batch.kubernetes.io/job-name":"x"}',
            "batch.kubernetes.io/job-name",
        ),
        ('settings.deadlines.train="14d"', "train"),
        ("settings.profiles.gpu.nodeselector={}", "nodeselector"),
        ('settings.stores.minio={"endpoint":"minio:9000","secretRef":{"name":"s3"}}', "endpoint"),
        ('settings.stores.minio={"endpoint":"https://minio","secretRef":{"namespace":"a"}}', "secretRef"),
        ('settings.stores.minio={"endpoint":"https://minio","secretRef":{"name":"it\'s"}}', "name"),
        ('settings.stores.minio={"endpoint":"https://minio","egress":{"cidrs":["minio"]}}', "cidrs"),
        (
            'settings.stores.minio={"endpoint":"https://minio","allowedNamespaces":["a*b"]}',
            "allowedNamespaces",
        ),
        ('settings.stores={"it\'s":{"endpoint":"https://minio"}}', "propertyName"),
        ('settings.profiles.gpu.allowedNamespaces="team-a"', "allowedNamespaces"),
        ("settings.podSecurity.runAsUser=0", "runAsUser"),
        ("settings.dns.ports=[]", "ports"),
        ('admissionPolicy.operator.secretNames=["it\'s"]', "secretNames"),
        ('settings.profiles.gpu.train={"cpu":16,"memory":"200Gi"}', "cpu"),
        ('extraVolumes=[{"name":"host","hostPath":{"path":"/"}}]', "extraVolumes"),
        ("metrics.service.port=70000", "port"),
    ],
)
def test_schema_refuses_and_names_the_value(render: Render, value: str, path: str) -> None:
    with pytest.raises(Exception, match=rf"(?s)schema.*{path}"):
        render(value)


@pytest.mark.parametrize("renew", [13, 30])
def test_a_lease_that_cannot_be_renewed_in_time_is_refused(render: Render, renew: int) -> None:
    said = rf"renewSeconds \({renew}\) must be less than settings.lease.durationSeconds \(15\) minus 2"
    with pytest.raises(Exception, match=said):
        render(f"settings.lease.renewSeconds={renew}")
    assert render(f"settings.lease.renewSeconds={15 - LEASE_MARGIN_SECONDS - 1}")


def test_no_object_of_the_schema_is_open_by_accident() -> None:
    open_on_purpose = {"global", "affinity"}

    def closed(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and "properties" in node and path not in open_on_purpose:
                lists = {"extraEnv", "extraVolumes", "extraVolumeMounts"}
                if path.partition("[")[0] not in lists:
                    assert node.get("additionalProperties") is False, path
            for name, inner in node.get("properties", {}).items():
                closed(inner, f"{path}.{name}".lstrip("."))
            closed(node.get("items"), f"{path}[]")

    document = schema()
    closed(document, "")
    for name, definition in document["definitions"].items():
        closed(definition, name)


def test_schema_knows_every_setting_of_the_operator() -> None:
    document = schema()
    known = document["properties"]["settings"]["properties"]
    assert set(known) == fields(Settings) - SET_BY_THE_CHART
    assert set(known["deadlines"]["properties"]) == fields(Deadlines)
    assert set(known["lease"]["properties"]) == fields(Lease) - {"name"}
    assert set(known["metrics"]["properties"]) == fields(MetricsSettings)
    profile = document["definitions"]["profile"]["properties"]
    assert set(profile) == fields(Profile)
    store = document["definitions"]["store"]["properties"]
    assert set(store) == fields(Store)
    assert set(document["definitions"]["egress"]["properties"]) == fields(Egress)
    assert set(store["secretRef"]["properties"]) == fields(SecretRef)
    assert set(store["caBundleRef"]["properties"]) == fields(CaBundleRef)
    assert set(known["dns"]["properties"]) == fields(Dns)
    assert set(known["podSecurity"]["properties"]) == fields(PodSecurity)


def test_defaults_are_the_operators_own() -> None:
    written = yaml.safe_load((CHART / "values.yaml").read_text())["settings"]
    assert Settings.model_validate({"trainerImage": "x", **written}) == Settings(trainer_image="x")


def test_every_value_has_a_schema_and_a_line_in_the_readme() -> None:
    text = (CHART / "values.yaml").read_text()
    for path, _, _ in values_table().rows(text):
        node = schema()
        for key in path.split("."):
            assert key in node["properties"], f"{path} is not in values.schema.json"
            node = node["properties"][key]
    assert values_table().table(text) in (CHART / "README.md").read_text()


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b\.c has no comment"):
        list(values_table().rows("# what a is\na: 1\nb:\n  c: 2\n"))
