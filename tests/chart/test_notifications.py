"""Notification targets in the chart: the files of the keys, the egress of the operator, and refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.names import NotificationEvent
from finetune_operator.runtime.webhook import CA_FILE, FOLDER, KEY_FILES
from finetune_operator.settings import NotificationTarget, Settings
from tests.chart.conftest import CHART, RefusedValuesError, the

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
CRM = {"url": "https://crm.example/hooks", "secretName": "crm-webhook"}
CHAT = {
    "url": "https://chat.chat.svc/finetune",
    "secretName": "chat-webhook",
    "egress": {"namespaces": ["chat"], "ports": [8443]},
}


def targets(**each: Any) -> str:
    return f"settings.notifications.targets={json.dumps(each)}"


def egress(render: Render, target: Any, *values: str) -> Manifest:
    """The rule of the NetworkPolicy for one target: the last rule."""
    policy = the("NetworkPolicy", render(targets(crm=target), *values))
    rule: Manifest = policy["spec"]["egress"][-1]
    return rule


def test_the_keys_of_each_target_are_files_where_the_operator_reads_them(render: Render) -> None:
    spec = the("Deployment", render(targets(crm=CRM, chat=CHAT)))["spec"]["template"]["spec"]
    (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "notifications"]
    assert Path(mount["mountPath"]) == FOLDER
    assert mount["readOnly"] is True
    (volume,) = [v["projected"] for v in spec["volumes"] if v["name"] == "notifications"]
    for name, secret in (("chat", "chat-webhook"), ("crm", "crm-webhook")):
        (source,) = [s["secret"] for s in volume["sources"] if s["secret"]["name"] == secret]
        assert source["optional"] is True
        assert {item["key"]: item["path"] for item in source["items"]} == {
            key: f"{name}/{key}" for key in (*KEY_FILES, CA_FILE)
        }


def test_no_secret_is_mounted_without_targets(render: Render) -> None:
    spec = the("Deployment", render())["spec"]["template"]["spec"]
    assert "notifications" not in [volume["name"] for volume in spec["volumes"]]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://crm.example/hooks", 443),
        ("https://crm.example:8443/hooks?a=b:1", 8443),
        ("http://crm.example", 80),
        ("https://[fd00::1]/x", 443),
        ("https://[fd00::1]:444/x", 444),
    ],
)
def test_the_operator_may_connect_to_the_port_of_a_target_at_every_address(
    render: Render, url: str, port: int
) -> None:
    rule = egress(render, CRM | {"url": url}, "settings.requireTls=false")
    assert rule == {"ports": [{"port": port, "protocol": "TCP"}]}


def test_the_egress_of_a_target_limits_the_addresses(render: Render) -> None:
    assert egress(render, CHAT) == {
        "ports": [{"port": 8443, "protocol": "TCP"}],
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "chat"}}}],
    }
    assert egress(render, CRM | {"egress": {"cidrs": ["10.1.0.0/16"]}}) == {
        "ports": [{"port": 443, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
    }


def test_the_operator_accepts_the_targets_that_the_chart_renders(render: Render) -> None:
    (config,) = [m for m in render(targets(crm=CRM, chat=CHAT)) if m["kind"] == "ConfigMap"]
    found = Settings.model_validate(yaml.safe_load(config["data"]["settings.yaml"])).notifications.targets
    assert found["crm"].url == CRM["url"]
    assert found["chat"].egress.ports == (8443,)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (
            CRM | {"url": "http://crm.example"},
            "notifications.targets.crm.url: plain http is refused",
        ),
        (CRM | {"url": "https://user:pw@crm.example"}, "url"),
        (CRM | {"url": "ftp://crm.example"}, "url"),
        ({"url": "https://crm.example"}, "secretName"),
        (CRM | {"events": ["Ended"]}, "events"),
        (CRM | {"key": "x"}, "key"),
    ],
)
def test_a_target_that_the_operator_would_refuse_is_refused(render: Render, target: Any, why: str) -> None:
    with pytest.raises(RefusedValuesError, match=why):
        render(targets(crm=target))
    document = {"trainerImage": "x", "notifications": {"targets": {"crm": target}}}
    with pytest.raises(ValueError, match=why):
        Settings.model_validate(document)


def test_the_schema_of_the_values_has_the_fields_and_events_of_the_operator() -> None:
    definitions = json.loads((CHART / "values.schema.json").read_text())["definitions"]
    properties = definitions["notificationTarget"]["properties"]
    assert properties.keys() == {
        field.alias or name for name, field in NotificationTarget.model_fields.items()
    }
    assert set(properties["events"]["items"]["enum"]) == set(NotificationEvent)
