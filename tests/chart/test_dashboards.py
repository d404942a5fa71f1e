"""The dashboards in the chart: ConfigMaps for a sidecar, or objects of the Grafana operator."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.chart.conftest import CHART, RefusedValuesError

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
FILES = {file.stem: json.loads(file.read_text()) for file in (CHART / "files/dashboards").glob("*.json")}
MAXIMUM = 1024 * 1024
"""Maximum size of a ConfigMap in bytes."""


def configmaps(manifests: list[Manifest]) -> list[Manifest]:
    return [m for m in manifests if m["kind"] == "ConfigMap" and "-dashboard-" in m["metadata"]["name"]]


def test_there_are_no_dashboards_by_default(render: Render) -> None:
    manifests = render()
    assert not configmaps(manifests)
    assert not [m for m in manifests if m["kind"] == "GrafanaDashboard"]


def test_each_dashboard_is_a_configmap_that_the_sidecar_finds(render: Render) -> None:
    found = configmaps(render("dashboards.enabled=true"))
    assert len(found) == len(FILES) == 4
    for manifest in found:
        meta = manifest["metadata"]
        assert meta["namespace"] == "finetune-system"
        assert meta["labels"]["grafana_dashboard"] == "1"
        assert meta["annotations"] == {"grafana_folder": "Fine-tuning"}
        ((name, text),) = manifest["data"].items()
        assert json.loads(text) == FILES[name.removeprefix("finetune-").removesuffix(".json")]
        assert len(text.encode()) < MAXIMUM


def test_labels_annotations_and_namespace_can_be_set(render: Render) -> None:
    found = configmaps(
        render(
            "dashboards.enabled=true",
            'dashboards.namespace="monitoring"',
            'dashboards.labels={"grafana_dashboard":null,"team":"ml"}',
            'dashboards.annotations={"grafana_folder":"Machine learning"}',
        )
    )
    for manifest in found:
        meta = manifest["metadata"]
        assert meta["namespace"] == "monitoring"
        assert meta["labels"]["team"] == "ml"
        assert "grafana_dashboard" not in meta["labels"]
        assert meta["annotations"] == {"grafana_folder": "Machine learning"}


def test_each_dashboard_is_an_object_of_the_grafana_operator(render: Render) -> None:
    manifests = render(
        "dashboards.grafanaOperator.enabled=true",
        'dashboards.grafanaOperator.instanceSelector={"matchLabels":{"dashboards":null,"grafana":"ml"}}',
    )
    found = [m for m in manifests if m["kind"] == "GrafanaDashboard"]
    assert not configmaps(manifests)
    assert [m["apiVersion"] for m in found] == ["grafana.integreatly.org/v1beta1"] * len(FILES)
    for manifest in found:
        spec = manifest["spec"]
        assert spec["instanceSelector"] == {"matchLabels": {"grafana": "ml"}}
        assert spec["folder"] == "Fine-tuning"
        assert spec["allowCrossNamespaceImport"] is True
        assert json.loads(spec["json"])["uid"] in {board["uid"] for board in FILES.values()}


def test_dashboards_link_to_the_runbooks_of_the_site(render: Render) -> None:
    address = "https://wiki.example/runbooks"
    manifests = render(
        "dashboards.enabled=true",
        "dashboards.grafanaOperator.enabled=true",
        f'metrics.prometheusRule.runbooks="{address}"',
    )
    texts = [next(iter(m["data"].values())) for m in configmaps(manifests)]
    texts += [m["spec"]["json"] for m in manifests if m["kind"] == "GrafanaDashboard"]
    assert len(texts) == 2 * len(FILES)
    for text in texts:
        (variable,) = (v for v in json.loads(text)["templating"]["list"] if v["name"] == "runbooks")
        assert variable["query"] == address


@pytest.mark.parametrize(
    "value",
    [
        "dashboards.enable=true",
        'dashboards.namespace="Not A Name"',
        'dashboards.labels={"grafana_dashboard":1}',
        'dashboards.grafanaOperator.instanceSelector={"labels":{"a":"b"}}',
        'metrics.prometheusRule.grafana="grafana.example"',
    ],
)
def test_values_that_make_no_sense_are_refused(render: Render, value: str) -> None:
    with pytest.raises(RefusedValuesError):
        render(value)
