"""Monitors and rules for the Prometheus operator: only on request, and they fit the Service and the pods.

The CustomResourceDefinitions of the Prometheus operator are not applied here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.rendering import jobs
from finetune_trainer.contract import Stage
from tests.chart.conftest import RefusedValuesError
from tests.operator import scenes

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
LABELS = '{"release":"prometheus"}'
SCRAPED = 'settings.metrics.scrapeNamespaces=["monitoring"]'
ROOT = Path(__file__).parents[2]


def found(kind: str, manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def selects(selector: Manifest, labels: Manifest) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    exist = [part["key"] for part in selector.get("matchExpressions", ()) if part["operator"] == "Exists"]
    return wanted <= labels.items() and all(key in labels for key in exist)


def test_there_are_no_monitors_by_default(render: Render) -> None:
    manifests = render()
    assert not found("ServiceMonitor", manifests)
    assert not found("PodMonitor", manifests)


def test_the_service_monitor_selects_the_metrics_service(render: Render) -> None:
    manifests = render("metrics.serviceMonitor.create=true", f"metrics.serviceMonitor.labels={LABELS}")
    (monitor,), (service,) = found("ServiceMonitor", manifests), found("Service", manifests)
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert selects(monitor["spec"]["selector"], service["metadata"]["labels"])
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]


@pytest.mark.parametrize(
    ("values", "namespaces"),
    [((), {"any": True}), (('watchNamespaces=["team-a","team-b"]',), {"matchNames": ["team-a", "team-b"]})],
)
def test_the_pod_monitor_selects_the_pods_of_jobs(
    render: Render, values: tuple[str, ...], namespaces: Manifest
) -> None:
    (monitor,) = found("PodMonitor", render("metrics.podMonitor.create=true", SCRAPED, *values))
    assert monitor["spec"]["namespaceSelector"] == namespaces
    configured = scenes.settings()
    job = scenes.job_of({})
    asked = scenes.asked_of(job, configured)
    pod = jobs.stage_job(job, asked, configured, Stage.PREPARE, 1)["spec"]["template"]
    assert selects(monitor["spec"]["selector"], pod["metadata"]["labels"])
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]


def test_a_pod_monitor_needs_a_namespace_that_may_scrape(render: Render) -> None:
    with pytest.raises(RefusedValuesError, match=r"settings\.metrics\.scrapeNamespaces"):
        render("metrics.podMonitor.create=true")


@pytest.mark.parametrize(
    "value", ['metrics.podMonitor.interval="often"', "metrics.serviceMonitor.created=true"]
)
def test_values_that_make_no_sense_are_refused(render: Render, value: str) -> None:
    with pytest.raises(RefusedValuesError):
        render(value)


def test_the_rules_link_to_the_runbooks_and_to_grafana_of_the_site(render: Render) -> None:
    assert not found("PrometheusRule", render())
    address, grafana = "https://wiki.example/runbooks", "https://grafana.example"
    manifests = render(
        "metrics.prometheusRule.create=true",
        f'metrics.prometheusRule.runbooks="{address}"',
        f'metrics.prometheusRule.grafana="{grafana}/"',
        f"metrics.prometheusRule.labels={LABELS}",
    )
    (rule,) = found("PrometheusRule", manifests)
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    source = (ROOT / "charts/finetune-operator/files/alerts.yaml").read_text()
    expected = source.replace("RUNBOOKS#", f"{address}#").replace("GRAFANA/d/", f"{grafana}/d/")
    assert rule["spec"] == yaml.safe_load(expected)


def test_without_an_address_of_grafana_the_alerts_have_the_path_of_the_panel(render: Render) -> None:
    (rule,) = found("PrometheusRule", render("metrics.prometheusRule.create=true"))
    alerts = [one for group in rule["spec"]["groups"] for one in group["rules"] if "alert" in one]
    assert all(alert["annotations"]["dashboard_url"].startswith("/d/finetune-") for alert in alerts)
