"""A kubeconfig of as little as will do: a server and a token."""

import json
from pathlib import Path


def write_kubeconfig(path: Path, server: str) -> None:
    """Writes one that names a server, without TLS."""
    document = {
        "clusters": [{"name": "one", "cluster": {"server": server}}],
        "users": [{"name": "one", "user": {"token": "secret"}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
        "current-context": "one",
    }
    path.write_text(json.dumps(document))
