"""Endpoints of S3 stores: the type of the field, and the hosts that are refused.

The same regular expressions are rules of the CRD and checks of the operator, so that a job which an older
CRD admitted is refused as well.
"""

import re
from typing import Annotated, Final

from pydantic import Field
from pydantic.config import JsonValue

from finetune_operator.api.fields import rule

_START: Final = "^https?://"
_END: Final = "(:[0-9]+)?/?$"
_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4: Final = rf"{_START}({_OCTET}\.){{3}}{_OCTET}{_END}"
"""The host is an IPv4 address of four decimal numbers."""
NUMBER: Final = rf"{_START}([^/:]*\.)?(0x[0-9a-f]*|[0-9]+){_END}"
"""The host is an IPv4 address in any spelling: one number, hexadecimal, octal, fewer than four parts."""
NO_STORE: Final = (
    rf"{_START}(([^/:]*\.)?localhost|localhost\.localdomain|metadata|metadata\.goog|metadata\.google\.internal)"
    rf"{_END}"
    rf"|{_START}(0|127|169\.254)\."
    rf"|{_START}(100\.100\.100\.200|168\.63\.129\.16|192\.0\.0\.192){_END}"
    rf"|{_START}\[(0{{0,4}}|fe[89ab][0-9a-f]|fd00:0?ec2|fd20:0{{0,2}}ce|0{{0,2}}64:ff9b|2002):"
)
"""The host is the pod itself, a link-local address, or a metadata service of a cloud.

IPv6: loopback, unspecified and IPv4-mapped addresses (`::/16`), link-local addresses, the metadata services
of AWS and Google, and the addresses that gateways translate to IPv4 (NAT64, 6to4).
"""
METADATA_NETWORKS: Final = (
    "169.254.0.0/16",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fe80::/10",
    "fd00:ec2::/32",
    "fd20:ce::/32",
    "64:ff9b::a9fe:0/112",
)
"""Link-local networks and metadata services of clouds: no NetworkPolicy of a run reaches them on the port of
a store, whatever a name resolves to."""
NUMBER_MESSAGE: Final = (
    "the host is a number or an unusual spelling of an IPv4 address: write four decimal numbers, for example"
    " 10.1.2.3"
)
NO_STORE_MESSAGE: Final = (
    "the host is the pod itself, a link-local address or a metadata service of a cloud: name the address of"
    " an S3 store"
)
_RULES: Final[list[JsonValue]] = [
    rule(f"!self.matches(r'{NUMBER}') || self.matches(r'{IPV4}')", NUMBER_MESSAGE),
    rule(f"!self.matches(r'{NO_STORE}')", NO_STORE_MESSAGE),
]

Endpoint = Annotated[
    str,
    Field(
        max_length=300,
        pattern=r"^https?://([a-z0-9]([-a-z0-9.]*[a-z0-9])?|\[[0-9a-f:]+\])(:[0-9]{1,5})?/?$",
        json_schema_extra={"x-kubernetes-validations": _RULES},
    ),
]


def why_refused(endpoint: str) -> str | None:
    """Why an endpoint names no S3 store; None where its host may be a store."""
    if re.search(NUMBER, endpoint) and not re.search(IPV4, endpoint):
        return NUMBER_MESSAGE
    if re.search(NO_STORE, endpoint):
        return NO_STORE_MESSAGE
    return None
