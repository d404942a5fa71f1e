"""Endpoints that name no S3 store: the pod itself, link-local addresses, metadata services."""

import ipaddress
from urllib.parse import urlsplit

import pytest

from finetune_operator.api.endpoint import NO_STORE_MESSAGE, NUMBER_MESSAGE, why_refused

REFUSED = [
    ("http://169.254.169.254", NO_STORE_MESSAGE),
    ("https://169.254.169.254:443/", NO_STORE_MESSAGE),
    ("http://169.254.170.2", NO_STORE_MESSAGE),
    ("http://2852039166", NUMBER_MESSAGE),
    ("http://0xa9fea9fe", NUMBER_MESSAGE),
    ("http://0xa9.0xfe.0xa9.0xfe", NUMBER_MESSAGE),
    ("http://0251.0376.0251.0376", NUMBER_MESSAGE),
    ("http://025177524776", NUMBER_MESSAGE),
    ("http://169.16689662", NUMBER_MESSAGE),
    ("http://169.254.43518:80", NUMBER_MESSAGE),
    ("http://169.254.169.0xfe", NUMBER_MESSAGE),
    ("http://169.254.169.0254", NUMBER_MESSAGE),
    ("http://425.510.425.510", NUMBER_MESSAGE),
    ("http://100.100.100.200", NO_STORE_MESSAGE),
    ("http://168.63.129.16", NO_STORE_MESSAGE),
    ("http://192.0.0.192", NO_STORE_MESSAGE),
    ("http://127.0.0.1:9000", NO_STORE_MESSAGE),
    ("http://127.1", NUMBER_MESSAGE),
    ("http://0.0.0.0", NO_STORE_MESSAGE),
    ("http://0", NUMBER_MESSAGE),
    ("https://localhost:9000", NO_STORE_MESSAGE),
    ("https://minio.localhost", NO_STORE_MESSAGE),
    ("https://localhost.localdomain", NO_STORE_MESSAGE),
    ("http://metadata.google.internal", NO_STORE_MESSAGE),
    ("http://metadata", NO_STORE_MESSAGE),
    ("http://[::1]:9000", NO_STORE_MESSAGE),
    ("http://[0:0:0:0:0:0:0:1]", NO_STORE_MESSAGE),
    ("http://[0000::1]", NO_STORE_MESSAGE),
    ("http://[::]", NO_STORE_MESSAGE),
    ("http://[::ffff:a9fe:a9fe]", NO_STORE_MESSAGE),
    ("http://[0:0:0:0:0:ffff:a9fe:a9fe]", NO_STORE_MESSAGE),
    ("http://[::a9fe:a9fe]", NO_STORE_MESSAGE),
    ("http://[64:ff9b::a9fe:a9fe]", NO_STORE_MESSAGE),
    ("http://[0064:ff9b::a9fe:a9fe]", NO_STORE_MESSAGE),
    ("http://[2002:a9fe:a9fe::]", NO_STORE_MESSAGE),
    ("http://[fe80::a9fe:a9fe]", NO_STORE_MESSAGE),
    ("http://[febf::1]", NO_STORE_MESSAGE),
    ("http://[fd00:ec2::254]", NO_STORE_MESSAGE),
    ("http://[fd00:0ec2:0:0:0:0:0:254]:80", NO_STORE_MESSAGE),
    ("http://[fd20:ce::254]", NO_STORE_MESSAGE),
]
ACCEPTED = [
    "https://minio.storage:9000",
    "https://minio.storage.svc.cluster.local:9000/",
    "https://10.1.2.3",
    "http://192.168.0.10:9000",
    "https://100.100.100.20",
    "https://192.0.0.19",
    "https://168.63.129.160",
    "https://16.169.254.10:9000",
    "https://s3.eu-central-1.amazonaws.com",
    "https://s3-0x.example",
    "https://3.example",
    "https://localhost-store.example",
    "https://metadata.example",
    "https://[fd00::1]:9000",
    "https://[fd00:ec::1]",
    "https://[2001:db8::1]",
    "https://[fec0::1]",
]


@pytest.mark.parametrize(("endpoint", "why"), REFUSED)
def test_what_is_no_store_is_refused_in_every_spelling(endpoint: str, why: str) -> None:
    assert why_refused(endpoint) == why


@pytest.mark.parametrize("endpoint", ACCEPTED)
def test_addresses_of_stores_are_accepted(endpoint: str) -> None:
    assert why_refused(endpoint) is None


@pytest.mark.parametrize("number", range(256))
def test_canonical_addresses_are_judged_as_the_standard_library_does(number: int) -> None:
    for text in (f"{number}.1.2.3", f"169.{number}.1.2", f"[fe{number:02x}::1]", f"[{number:x}::1]"):
        host = urlsplit(f"https://{text}:9000").hostname
        address = ipaddress.ip_address(host or "")
        low = address in ipaddress.ip_network("::/16" if address.version == 6 else "0.0.0.0/8")
        expected = address.is_loopback or address.is_link_local or low
        assert (why_refused(f"https://{text}:9000") is not None) == expected, text
