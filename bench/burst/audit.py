"""PURE what an API server's audit log says of who asked for what."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class Request(NamedTuple):
    """What somebody asks of the API server."""

    actor: str
    """Name of the service account."""
    verb: str
    resource: str
    """With its subresource: `jobs`, `trainjobs/status`; a path where it is no resource: `/apis`."""


Requests = Counter[Request]


def requests(lines: Iterable[dict[str, Any]], actors: Collection[str]) -> Requests:
    """Counts the requests of some service accounts; those for their leases are left aside.

    Args:
        lines: audit events, in any order.
        actors: names of service accounts.
    """
    counted: Requests = Counter()
    for line in lines:
        about = line.get("objectRef", {})
        actor = line["user"].get("username", "").rpartition(":")[2]
        # A watch is recorded when it begins and, minutes later, when it ends.
        stage = "ResponseStarted" if line["verb"] == "watch" else "ResponseComplete"
        if actor not in actors or line["stage"] != stage or about.get("resource") == "leases":
            continue
        named = "/".join(about[part] for part in ("resource", "subresource") if part in about)
        counted[Request(actor, line["verb"], named or line["requestURI"].partition("?")[0])] += 1
    return counted


def writes(counted: Requests) -> int:
    """How many of the requests change something."""
    return sum(number for request, number in counted.items() if request.verb in WRITES)
