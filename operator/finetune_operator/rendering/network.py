"""Renders the Service and the NetworkPolicies of a run. Pure."""

from collections.abc import Collection
from ipaddress import ip_network

from finetune_operator import names
from finetune_operator.api import FineTuneJob
from finetune_operator.api.endpoint import METADATA_NETWORKS
from finetune_operator.objects import Manifest
from finetune_operator.rendering.cleanup_record import CleanupRecord
from finetune_operator.rendering.metadata import labels, run_metadata
from finetune_operator.rendering.trainer_config import port_of, same_endpoint, uid_of
from finetune_operator.settings import Egress, Settings, is_part
from finetune_trainer import config as trainer
from finetune_trainer.contract import PROGRESS_PORT, RENDEZVOUS_PORT, Stage

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label that Kubernetes sets on every namespace, with the name of the namespace."""
EVERY_ADDRESS = ("0.0.0.0/0", "::/0")


def service(job: FineTuneJob) -> Manifest:
    """The headless Service by which the pods of a gang find each other, even before they are ready."""
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
    """The pods of a run reach each other, DNS and the stores; operator and scrapers reach the pods."""
    own_pods = {"podSelector": {"matchLabels": {names.LABEL_UID: uid_of(job)}}}
    operator = {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: settings.operator_namespace}}}
    scrapers = [_namespaces(settings.metrics.scrape_namespaces)] if settings.metrics.scrape_namespaces else []
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
                {"from": [operator, *scrapers], "ports": [{"protocol": "TCP", "port": PROGRESS_PORT}]},
            ],
            "egress": [
                {"to": [own_pods]},
                *_to_dns(settings),
                *_to_stores(settings, stores.data, stores.model, stores.output),
            ],
        },
    }


def cleanup_network_policy(record: CleanupRecord, owner: Manifest, settings: Settings) -> Manifest:
    """The egress of a cleanup Job: DNS and the output store. `owner` is the ControllerRevision of the record.

    The NetworkPolicy of the run does not exist any more: the FineTuneJob owned that NetworkPolicy.
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
            "egress": [*_to_dns(settings), *_to_stores(settings, record.run.stores.output)],
        },
    }


def _to_dns(settings: Settings) -> list[Manifest]:
    """The DNS ports at every address, and every port of the DNS pods of the cluster."""
    dns = settings.dns
    cluster_dns = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: dns.namespace}},
        "podSelector": {"matchLabels": dict(dns.pod_labels)},
    }
    return [
        {
            "ports": [
                {"protocol": protocol, "port": port} for port in dns.ports for protocol in ("UDP", "TCP")
            ]
        },
        {"to": [cluster_dns]},
    ]


def _to_stores(settings: Settings, *stores: trainer.StoreAccess) -> list[Manifest]:
    """The addresses and ports of stores, each rule once.

    The endpoint identifies the store of the settings, whose egress applies. For other endpoints the rule
    allows the port of the endpoint at every address except metadata services, because S3 may be outside the
    cluster. A NetworkPolicy applies to the port of the pod behind a Service.
    """
    rules: list[Manifest] = []
    for store in stores:
        known = [s.egress for s in settings.stores.values() if same_endpoint(s.endpoint, store.endpoint)]
        for egress in known or [Egress()]:
            ports = sorted(set(egress.ports)) or [port_of(store.endpoint)]
            rule = {"to": _peers(egress), "ports": [{"protocol": "TCP", "port": port} for port in ports]}
            if rule not in rules:
                rules.append(rule)
    return rules


def _peers(egress: Egress) -> list[Manifest]:
    """The networks and namespaces of a store; every pod and every address where the settings name none."""
    pods = [_namespaces(egress.namespaces)] if egress.namespaces else []
    if egress.cidrs or egress.namespaces:
        return [*pods, *map(_ip_block, sorted(egress.cidrs))]
    # Some network plugins, such as Cilium, match no pod by an address.
    return [{"namespaceSelector": {}}, *map(_ip_block, EVERY_ADDRESS)]


def _namespaces(namespaces: Collection[str]) -> Manifest:
    """The pods of some namespaces."""
    named = {"key": NAMESPACE_NAME, "operator": "In", "values": sorted(namespaces)}
    return {"namespaceSelector": {"matchExpressions": [named]}}


def _ip_block(cidr: str) -> Manifest:
    """A network, except the addresses of metadata services."""
    network = ip_network(cidr)
    without = [m for m in METADATA_NETWORKS if is_part(ip_network(m), network)]
    return {"ipBlock": {"cidr": cidr} | ({"except": without} if without else {})}
