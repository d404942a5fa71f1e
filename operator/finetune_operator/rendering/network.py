"""The Service and the NetworkPolicy of a run. Pure."""

from urllib.parse import urlsplit

from finetune_operator import names
from finetune_operator.api import FineTuneJob
from finetune_operator.objects import Manifest
from finetune_operator.rendering.metadata import run_metadata
from finetune_operator.rendering.trainer_config import uid_of
from finetune_operator.settings import Settings
from finetune_trainer import config as trainer
from finetune_trainer.contract import PROGRESS_PORT, RENDEZVOUS_PORT, Stage


def service(job: FineTuneJob) -> Manifest:
    """The headless Service by which the pods of a gang find each other, ready or not."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": run_metadata(job),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_UID: uid_of(job), names.LABEL_STAGE: Stage.TRAIN.value},
            "ports": [
                {"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP"},
                {"name": "progress", "port": PROGRESS_PORT, "protocol": "TCP"},
            ],
        },
    }


def network_policy(job: FineTuneJob, run: trainer.Run, settings: Settings) -> Manifest:
    """What the pods of a run may talk to: each other, DNS, the stores' ports; and the operator to them.

    Stores are allowed by port and to any address, because S3 may be outside the cluster. A policy sees the
    port behind a Service: a store in the cluster must listen on the port that its endpoint names.
    """
    own_pods = {"podSelector": {"matchLabels": {names.LABEL_UID: uid_of(job)}}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.operator_namespace}}
    }
    cluster_dns = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    store_ports = sorted({_port(s.endpoint) for s in (run.stores.data, run.stores.model, run.stores.output)})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": run_metadata(job),
        "spec": {
            "podSelector": {"matchLabels": {names.LABEL_UID: uid_of(job)}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [own_pods]},
                {"from": [operator], "ports": [{"protocol": "TCP", "port": PROGRESS_PORT}]},
            ],
            "egress": [
                {"to": [own_pods]},
                # Port 53 for resolvers anywhere; any port for the cluster's own, which may listen elsewhere
                # behind its Service.
                {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
                {"to": [cluster_dns]},
                {"ports": [{"protocol": "TCP", "port": port} for port in store_ports]},
            ],
        },
    }


def _port(endpoint: str) -> int:
    parts = urlsplit(endpoint)
    return parts.port or (443 if parts.scheme == "https" else 80)
