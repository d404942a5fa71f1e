"""Watches the gateway of a node: which addresses outside the cluster its processes and pods try to reach."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from devcluster import packages
from devcluster.cluster import Cluster


@dataclass(frozen=True)
class Outbound:
    """The packets that came to the gateway for somebody else.

    Attributes:
        table: name of the nftables table that counts and drops the packets.
    """

    table: str

    def destinations(self) -> list[str]:
        """Returns the IPv4 addresses that the packets were for; empty if no packet came."""
        listed = _nft("list", "set", "inet", self.table, "destinations")
        _, _, elements = listed.partition("elements = {")
        return sorted(word.strip() for word in elements.partition("}")[0].split(",") if word.strip())


@contextmanager
def watched(cluster: Cluster) -> Iterator[Outbound]:
    """Cuts the network of a cluster, and records what its node sends to the gateway for somebody else.

    The default route of the node leads to this machine. Packets for this machine, such as answers to kubectl,
    pass. Packets for all other unicast addresses are recorded and dropped.

    Raises:
        subprocess.CalledProcessError: nft failed.
    """
    packages.require("nftables")
    table = f"outbound-{cluster.name}"
    _nft("-f", "-", given=_RULES.format(table=table, link=cluster.host_link))
    try:
        yield Outbound(table)
    finally:
        _nft("delete", "table", "inet", table)


_RULES = """
table inet {table}
delete table inet {table}
table inet {table} {{
    set destinations {{
        type ipv4_addr
        flags dynamic
        size 1024
    }}
    chain gateway {{
        type filter hook prerouting priority raw
        iifname {link} fib daddr type unicast add @destinations {{ ip daddr }}
        iifname {link} fib daddr type unicast drop
    }}
}}
"""


def _nft(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(["nft", *arguments], check=True, stdout=subprocess.PIPE, text=True, input=given)
    return done.stdout
