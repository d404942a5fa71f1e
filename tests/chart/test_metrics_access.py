"""TLS and authentication of the operator's metrics."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from finetune_operator.runtime.serving_certificate import FOLDER
from finetune_operator.settings import Settings
from tests.chart.conftest import RefusedValuesError, the

Render = Callable[..., list[dict[str, Any]]]
TLS = "settings.metrics.tls=true"
AUTHENTICATION = "settings.metrics.authentication=true"
CERTIFICATE = 'metrics.tls.secretName="metrics-cert"'
MONITOR = "metrics.serviceMonitor.create=true"


def endpoint(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = the("ServiceMonitor", manifests)["spec"]["endpoints"]
    assert isinstance(found, dict)
    return found


def test_the_operator_gets_the_settings(render: Render) -> None:
    text = the("ConfigMap", render(TLS, AUTHENTICATION))["data"]["settings.yaml"]
    settings = Settings.model_validate(yaml.safe_load(text)).metrics
    assert (settings.tls, settings.authentication) == (True, True)


def test_the_certificate_is_mounted_where_the_operator_reads(render: Render) -> None:
    pod = the("Deployment", render(TLS, CERTIFICATE))["spec"]["template"]["spec"]
    (volume,) = [v for v in pod["volumes"] if v.get("secret", {}).get("secretName") == "metrics-cert"]
    assert {item["key"]: item["path"] for item in volume["secret"]["items"]} == {
        "tls.crt": "tls.crt",
        "tls.key": "tls.key",
    }
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume["name"]]
    assert mount == {"name": volume["name"], "mountPath": str(FOLDER), "readOnly": True}
    plain = the("Deployment", render(TLS))["spec"]["template"]["spec"]
    assert not [v for v in plain["volumes"] if "secret" in v]


def test_the_monitor_uses_tls_and_a_token(render: Render) -> None:
    assert "scheme" not in endpoint(render(MONITOR))
    signed = endpoint(render(MONITOR, TLS, CERTIFICATE))
    assert signed["scheme"] == "https"
    assert signed["tlsConfig"] == {
        "ca": {"secret": {"name": "metrics-cert", "key": "ca.crt"}},
        "serverName": "finetune-operator-metrics.finetune-system.svc",
    }
    assert "bearerTokenFile" not in signed
    own = endpoint(render(MONITOR, TLS, AUTHENTICATION))
    assert own["tlsConfig"] == {"insecureSkipVerify": True}
    assert own["bearerTokenFile"] == "/var/run/secrets/kubernetes.io/serviceaccount/token"


def test_the_operator_may_ask_for_reviews_only_with_authentication(render: Render) -> None:
    manifests = render(TLS, AUTHENTICATION)
    assert the("ClusterRole", manifests, "-metrics-access")["rules"] == [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
    ]
    assert the("ClusterRole", manifests, "-metrics-reader")["rules"] == [
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}
    ]
    binding = the("ClusterRoleBinding", manifests, "-metrics-access")
    account = the("Deployment", manifests)["spec"]["template"]["spec"]["serviceAccountName"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account, "namespace": "finetune-system"}
    ]
    assert binding["roleRef"]["name"].endswith("-metrics-access")
    for values in ((), (TLS,), (TLS, AUTHENTICATION, "rbac.create=false")):
        assert not [m for m in render(*values) if "metrics-" in m["metadata"]["name"] and "Role" in m["kind"]]


@pytest.mark.parametrize("values", [(AUTHENTICATION,), (CERTIFICATE,)])
def test_values_without_tls_are_refused(render: Render, values: tuple[str, ...]) -> None:
    with pytest.raises(RefusedValuesError, match=r"settings\.metrics\.tls"):
        render(*values)
