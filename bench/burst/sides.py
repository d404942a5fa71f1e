"""Those that are compared: what is installed, which programs run, and what one job of theirs looks like."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from bench.burst import releases
from bench.burst.releases import Manifest
from devcluster import binaries, pki
from devcluster.controlplane import free_ports

NAMESPACE = "burst"
"""Where the jobs are."""
OURS = "finetune-operator"
PEER = "Kubeflow Trainer + JobSet"
PEER_UNBOUND = "the same, Trainer's client limit lifted"
"""As released, Trainer sends 50 requests a second at most; JobSet 500."""
_UNBOUND = {"clientConnection": {"qps": 500, "burst": 500}}
_IMAGE = "registry.example/trainer:1"


@dataclass(frozen=True)
class Controller:
    """One program of a side.

    Attributes:
        name: in the tables.
        account: its service account, by which the audit log knows it.
        namespace: where the service account and the lease are.
        command: what to run.
        environment: beyond KUBECONFIG and this process's own.
        ready: path of its readiness on a port of this machine, as a URL.
    """

    name: str
    account: str
    namespace: str
    command: tuple[str, ...]
    environment: dict[str, str]
    ready: str


@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    Attributes:
        name: in the tables.
        install: applied once, before anything runs.
        controllers: they work together.
        prepare: applied when they run: their webhooks look at it.
        jobs: API path of its jobs.
        between: API paths of what its controllers make between a job and its Jobs.
        job: one of them, but for its name.
        first: label selector of the first Job of one that makes a pod.
        owner: label of that Job with the name of the one it is for.
    """

    name: str
    install: list[Manifest]
    controllers: tuple[Controller, ...]
    prepare: list[Manifest]
    jobs: str
    between: tuple[str, ...]
    job: Manifest
    first: str
    owner: str

    def named(self, name: str) -> Manifest:
        """One job."""
        return self.job | {"metadata": {"name": name, "namespace": NAMESPACE}}


def ours(folder: Path) -> Side:
    """This operator with the settings of its chart.

    Args:
        folder: an empty or new folder for its files.
    """
    release = releases.own()
    metrics_port, health_port = free_ports(2)
    settings = releases.configuration(release, "settings.yaml")
    ports = {"metricsPort": metrics_port, "healthPort": health_port}
    file = _write(folder / "settings.yaml", releases.overlaid(settings, ports))
    controller = Controller(
        name="operator",
        account="finetune-operator",
        namespace=releases.OWN_NAMESPACE,
        command=(sys.executable, "-m", "finetune_operator", "--settings", str(file)),
        environment={},
        ready=f"http://127.0.0.1:{health_port}/readyz",
    )
    return Side(
        name=OURS,
        install=releases.installed(release, 0, b""),
        controllers=(controller,),
        prepare=[],
        jobs=f"/apis/finetune.dev/v1alpha1/namespaces/{NAMESPACE}/finetunejobs",
        between=(),
        job={
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "spec": {
                "task": "TextClassification",
                "model": {"uri": "s3://models/minilm"},
                "dataset": {"train": {"uri": "s3://datasets/tickets/train.jsonl"}},
                "output": {"uri": "s3://models/support/"},
                "storage": {"endpoint": "https://minio.storage:9000", "secretRef": {"name": "s3"}},
            },
        },
        # Not the cleanup Job, which is made before it and stays suspended.
        first="finetune.dev/stage=Prepare",
        owner="finetune.dev/job",
    )


def peer(folder: Path) -> tuple[Side, Side]:
    """Kubeflow Trainer and JobSet with the settings of their releases, and with one of these changed.

    Args:
        folder: an empty or new folder for its files.
    """
    authority = pki.new_authority("burst webhooks")
    ca = pki.certificate_pem(authority.certificate)
    trainer, jobset = releases.trainer(folder / "kustomization"), releases.jobset()
    trainer_port, jobset_port = free_ports(2)
    own_certificates = {"certManagement": {"enable": False}}
    certificates = folder / "jobset/k8s-webhook-server/serving-certs"
    jobset_certificates = {
        "internalCertManagement": {"enable": False},
        "metrics": {"certDir": str(certificates)},
    }
    for name in ("trainer", "jobset", "trainer-unbound"):
        credential = pki.issue(authority, f"{name} webhooks", names=("127.0.0.1",))
        pki.write(folder / name / "k8s-webhook-server/serving-certs", "tls", credential)

    def trainer_at(place: str, changes: Manifest) -> Controller:
        return _go_controller(
            folder / place,
            name="Trainer",
            account="kubeflow-trainer-controller-manager",
            namespace=releases.TRAINER_NAMESPACE,
            program=binaries.built("trainer-controller-manager", releases.TRAINER),
            release=trainer,
            port=trainer_port,
            changes=own_certificates | changes,
        )

    jobset_controller = _go_controller(
        folder / "jobset",
        name="JobSet",
        account="jobset-controller-manager",
        namespace="jobset-system",
        program=binaries.built("jobset-controller-manager", releases.JOBSET),
        release=jobset,
        port=jobset_port,
        changes=jobset_certificates,
    )
    runtime = releases.trainer_runtime()
    released = Side(
        name=PEER,
        install=[
            *releases.installed(trainer, trainer_port, ca),
            *releases.installed(jobset, jobset_port, ca),
        ],
        controllers=(trainer_at("trainer", {}), jobset_controller),
        prepare=[runtime],
        jobs=f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs",
        between=(f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{NAMESPACE}/jobsets",),
        job={
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "spec": {
                "runtimeRef": {"name": runtime["metadata"]["name"]},
                "trainer": {"image": _IMAGE, "command": ["python", "train.py"]},
            },
        },
        first="jobset.sigs.k8s.io/jobset-name",
        owner="jobset.sigs.k8s.io/jobset-name",
    )
    unbound = (trainer_at("trainer-unbound", _UNBOUND), jobset_controller)
    return released, replace(released, name=PEER_UNBOUND, controllers=unbound)


def _go_controller(
    folder: Path,
    *,
    name: str,
    account: str,
    namespace: str,
    program: Path,
    release: list[Manifest],
    port: int,
    changes: dict[str, Any],
) -> Controller:
    """A controller-runtime program as its release starts it, with ports and certificates of here."""
    metrics_port, health_port = free_ports(2)
    here = {
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health_port}"},
        "metrics": {"bindAddress": f"127.0.0.1:{metrics_port}"},
        "webhook": {"host": "127.0.0.1", "port": port},
        "leaderElection": {"resourceNamespace": namespace},
    }
    told = releases.configuration(release, "controller_manager_config.yaml")
    file = _write(folder / "config.yaml", releases.overlaid(releases.overlaid(told, here), changes))
    others = [a for a in releases.arguments(release) if not a.startswith("--config=")]
    return Controller(
        name=name,
        account=account,
        namespace=namespace,
        command=(str(program), f"--config={file}", *others),
        # Where controller-runtime looks for its webhooks' certificates.
        environment={"TMPDIR": str(folder)},
        ready=f"http://127.0.0.1:{health_port}/readyz",
    )


def _write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path
