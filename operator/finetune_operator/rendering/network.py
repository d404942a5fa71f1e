"""The Service and the NetworkPolicy of a run. Pure."""

from urllib.parse import urlsplit

from finetune_operator import names
from finetune_operator.api import FineTuneJob
from finetune_operator.objects import Manifest
from finetune_operator.rendering.cleanup_record import CleanupRecord
from finetune_operator.rendering.metadata import labels, run_metadata
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
    stores = run.stores
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
            "egress": [{"to": [own_pods]}, *_dns(), *_to_stores(stores.data, stores.model, stores.output)],
        },
    }


def cleanup_network_policy(record: CleanupRecord, owner: Manifest) -> Manifest:
    """The egress of a cleanup Job: DNS and the output store. `owner` is the ControllerRevision of the record.

    The NetworkPolicy of the run is gone by then: the FineTuneJob owned it.
    """
    meta = owner["metadata"]
    selected = {names.LABEL_UID: uid_of(record.job), names.LABEL_ROLE: names.ROLE_CLEANUP}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": labels(record.job) | {names.LABEL_ROLE: names.ROLE_CLEANUP},
            "annotations": {names.ANNOTATION_JOB_NAME: record.job.metadata["name"]},
            "ownerReferences": [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "podSelector": {"matchLabels": selected},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [*_dns(), *_to_stores(record.run.stores.output)],
        },
    }


def _dns() -> list[Manifest]:
    """Port 53 of every resolver; every port of the cluster's own, whose Service may hide another port."""
    cluster_dns = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    return [
        {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
        {"to": [cluster_dns]},
    ]


def _to_stores(*stores: trainer.StoreAccess) -> list[Manifest]:
    ports = sorted({_port(store.endpoint) for store in stores})
    return [{"ports": [{"protocol": "TCP", "port": port} for port in ports]}]


def _port(endpoint: str) -> int:
    parts = urlsplit(endpoint)
    return parts.port or (443 if parts.scheme == "https" else 80)
