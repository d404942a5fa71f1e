import base64

from bench.burst.releases import (
    JOBSET,
    TRAINER,
    Manifest,
    arguments,
    configuration,
    installed,
    overlaid,
)

WEBHOOKS: Manifest = {
    "kind": "ValidatingWebhookConfiguration",
    "webhooks": [
        {
            "failurePolicy": "Fail",
            "clientConfig": {
                "service": {"name": "webhook-service", "namespace": "system", "path": "/validate"}
            },
        }
    ],
}
DEPLOYMENT: Manifest = {
    "kind": "Deployment",
    "spec": {
        "template": {"spec": {"containers": [{"args": ["--config=/config.yaml", "--zap-log-level=2"]}]}}
    },
}
CONFIG: Manifest = {"kind": "ConfigMap", "data": {"config.yaml": "leaderElection: {leaderElect: true}"}}


def test_webhooks_stay_on_and_are_found_on_this_machine() -> None:
    (here,) = installed([WEBHOOKS], 9443, b"PEM")
    assert here["webhooks"] == [
        {
            "failurePolicy": "Fail",
            "clientConfig": {
                "url": "https://127.0.0.1:9443/validate",
                "caBundle": base64.b64encode(b"PEM").decode(),
            },
        }
    ]
    assert "service" in WEBHOOKS["webhooks"][0]["clientConfig"]


def test_deployments_are_not_installed_but_their_arguments_are_read() -> None:
    release = [DEPLOYMENT, CONFIG]
    assert installed(release, 0, b"") == [CONFIG]
    assert arguments(release) == ["--config=/config.yaml", "--zap-log-level=2"]
    assert configuration(release, "config.yaml") == {"leaderElection": {"leaderElect": True}}


def test_an_overlay_replaces_values_and_joins_mappings() -> None:
    below = {"leaderElection": {"leaderElect": True}, "clientConnection": {"qps": 50, "burst": 100}}
    above = {"clientConnection": {"qps": 500}, "webhook": {"port": 1}}
    assert overlaid(below, above) == {
        "leaderElection": {"leaderElect": True},
        "clientConnection": {"qps": 500, "burst": 100},
        "webhook": {"port": 1},
    }


def test_the_peers_are_those_that_the_goals_name() -> None:
    trainer, jobset = ((program.folder / "go.mod").read_text() for program in (TRAINER, JOBSET))
    assert "require github.com/kubeflow/trainer/v2 v2.3.0" in trainer
    assert "sigs.k8s.io/jobset v0.12.0" in trainer
    assert "require sigs.k8s.io/jobset v0.12.0" in jobset
