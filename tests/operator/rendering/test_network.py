"""The egress of the pods of a run: stores, DNS, and no metadata service."""

import ipaddress
from typing import Any

import pytest

from finetune_operator.objects import Manifest
from finetune_operator.rendering import network
from tests.operator import scenes

METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    "fe80::1",
]


def egress(spec: Manifest, changes: Manifest | None = None) -> list[Manifest]:
    """The rules for stores, which follow the rules for the pods of the run and for DNS."""
    configured = scenes.settings(changes)
    job = scenes.job_of({"spec": spec})
    policy = network.network_policy(job, scenes.asked_of(job, configured).run, configured)
    rules: list[Manifest] = policy["spec"]["egress"][3:]
    return rules


def reaches(rules: list[Manifest], address: str, port: int) -> bool:
    """Whether a rule allows an address outside the cluster, as a network plugin reads the rule."""
    ip = ipaddress.ip_address(address)

    def holds(block: Any) -> bool:
        return ip in ipaddress.ip_network(block["cidr"]) and not any(
            ip in ipaddress.ip_network(left_out) for left_out in block.get("except", ())
        )

    return any(
        port in [p["port"] for p in rule["ports"]]
        and any(holds(peer["ipBlock"]) for peer in rule["to"] if "ipBlock" in peer)
        for rule in rules
    )


def test_without_known_networks_the_port_of_each_store_is_open_but_to_metadata_services() -> None:
    other = {"endpoint": "https://s3.corp", "secretRef": {"name": "x"}}
    rules = egress({"dataset": {"storage": other}})

    for address in ("10.1.2.3", "203.0.113.7", "2001:db8::1", "fd00::1"):
        assert reaches(rules, address, 443)
        assert reaches(rules, address, 9000)
        assert not reaches(rules, address, 80)
    assert all({"namespaceSelector": {}} in rule["to"] for rule in rules)


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("cidrs", [[], ["0.0.0.0/0", "::/0"], ["168.0.0.0/5", "fc00::/6"]])
def test_attack_a_name_that_resolves_to_a_metadata_service(address: str, cidrs: list[str]) -> None:
    store = {"endpoint": "http://innocent.example", "secretRef": {"name": "x"}, "egress": {"cidrs": cidrs}}
    configured = {"stores": {"s": store}, "requireTls": False}
    assert not reaches(
        egress({"storage": {"store": "s", "endpoint": None, "caBundleRef": None}}, configured), address, 80
    )


def test_only_the_networks_and_ports_of_a_store_are_open() -> None:
    store = {"endpoint": "https://s3.corp", "egress": {"cidrs": ["10.20.0.0/24"], "ports": [9000]}}
    own = {"store": "minio", "endpoint": None, "caBundleRef": None}
    rules = egress({"storage": own}, {"stores": {"minio": store}})

    assert rules == [
        {"to": [{"ipBlock": {"cidr": "10.20.0.0/24"}}], "ports": [{"protocol": "TCP", "port": 9000}]}
    ]
    assert not reaches(rules, "10.20.1.1", 9000)
    assert not reaches(rules, "10.20.0.1", 443)


def test_a_store_behind_a_service_of_the_cluster_is_open_by_namespace_at_the_port_of_its_pods() -> None:
    """The Service maps 443 to 9000; a NetworkPolicy applies to the port of the pods."""
    store = {"endpoint": "https://minio.storage.svc", "egress": {"namespaces": ["storage"], "ports": [9000]}}
    own = {"store": "minio", "endpoint": None, "caBundleRef": None}

    assert egress({"storage": own}, {"stores": {"minio": store}}) == [
        {
            "to": [
                {
                    "namespaceSelector": {
                        "matchExpressions": [
                            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["storage"]}
                        ]
                    }
                }
            ],
            "ports": [{"protocol": "TCP", "port": 9000}],
        }
    ]


def test_a_job_that_names_the_endpoint_of_a_store_gets_the_egress_of_the_store() -> None:
    store = {"endpoint": "https://minio.storage:9000/", "egress": {"cidrs": ["10.20.0.0/24"]}}
    rules = egress({}, {"stores": {"minio": store}})

    assert [rule["to"] for rule in rules] == [[{"ipBlock": {"cidr": "10.20.0.0/24"}}]]


def test_dns_may_listen_on_another_port_in_another_namespace_under_other_labels() -> None:
    dns = {"ports": [53, 5353], "namespace": "openshift-dns", "podLabels": {"dns": "default"}}
    configured = scenes.settings({"dns": dns})
    job = scenes.job_of()
    rules = network.network_policy(job, scenes.asked_of(job, configured).run, configured)["spec"]["egress"]

    assert rules[1] == {
        "ports": [{"protocol": p, "port": port} for port in (53, 5353) for p in ("UDP", "TCP")]
    }
    assert rules[2]["to"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}},
            "podSelector": {"matchLabels": {"dns": "default"}},
        }
    ]


@pytest.mark.parametrize(("namespaces", "scrapers"), [([], []), (["monitoring", "a"], ["a", "monitoring"])])
def test_the_namespaces_of_scrapers_reach_the_metrics_and_nothing_else(
    namespaces: list[str], scrapers: list[str]
) -> None:
    configured = scenes.settings({"metrics": {"scrapeNamespaces": namespaces}})
    job = scenes.job_of({})
    policy = network.network_policy(job, scenes.asked_of(job, configured).run, configured)
    own_pods, scraped = policy["spec"]["ingress"]
    assert "ports" not in own_pods
    assert scraped["ports"] == [{"protocol": "TCP", "port": 8080}]
    found = [
        value
        for peer in scraped["from"]
        for part in peer["namespaceSelector"].get("matchExpressions", ())
        for value in part["values"]
    ]
    assert found == scrapers
