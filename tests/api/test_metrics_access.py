"""Who may read the operator's metrics, decided by a real API server."""

import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.api.harness import Operator, Scene
from tests.api.kube import Kube, wait_for
from tests.api.rbac import chart_objects, chart_rules, grant, make_account, new_token

CLUSTER = "/apis/rbac.authorization.k8s.io/v1/{}"


def cluster_role(name: str) -> dict[str, Any]:
    """A ClusterRole that the chart creates for authenticated metrics."""
    objects = chart_objects(
        "finetune-system", "settings.metrics.tls=true,settings.metrics.authentication=true"
    )
    (role,) = [o for o in objects if o["kind"] == "ClusterRole" and o["metadata"]["name"].endswith(name)]
    return dict(role)


def bind(kube: Kube, role: dict[str, Any], namespace: str, account: str) -> None:
    """Creates a ClusterRole of the chart under a name of its own, and binds an account to the role."""
    name = f"{namespace}-{role['metadata']['name']}"
    kube.call("POST", CLUSTER.format("clusterroles"), role | {"metadata": {"name": name}})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
    kube.call("POST", CLUSTER.format("clusterrolebindings"), binding)


def scrape(operator: Operator, token: str | None) -> tuple[int, str]:
    """Status and text of the answer to a request for the metrics over TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(f"https://127.0.0.1:{operator.metrics_port}/metrics")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:  # noqa: S310 - https
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_only_accounts_with_the_right_read_the_metrics(scene: Scene, tmp_path: Path) -> None:
    kube, namespace = scene.kube, scene.namespace
    confined = make_account(kube, namespace, tmp_path)
    grant(kube, namespace, namespace, chart_rules(namespace, namespace))
    bind(kube, cluster_role("-metrics-access"), namespace, "op")
    prometheus, stranger = (new_token(kube, namespace, name) for name in ("prometheus", "stranger"))
    bind(kube, cluster_role("-metrics-reader"), namespace, "prometheus")
    operator = scene.start(kubeconfig=confined, metrics={"tls": True, "authentication": True})
    wait_for("the operator to answer", lambda: scrape(operator, None)[0] != 0)

    assert scrape(operator, None) == (401, "Unauthorized\n")
    assert scrape(operator, "a false token")[0] == 401
    assert scrape(operator, stranger)[0] == 403
    status, text = scrape(operator, prometheus)
    assert status == 200
    assert "finetune_operator_leader" in text
    ends = [line for line in text.splitlines() if line.startswith("finetune_operator_certificate_end")]
    assert float(ends[0].split()[1]) > 1.7e9
