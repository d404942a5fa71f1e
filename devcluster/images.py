"""Images of one static program each, made without a base and put straight into the registry.

Formats: the OCI image and distribution specifications, https://github.com/opencontainers.
"""

import hashlib
import http.client
import io
import json
import tarfile
from http import HTTPStatus
from pathlib import Path

from devcluster.cluster import REGISTRY, REGISTRY_PORT, Cluster
from devcluster.places import DevclusterError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
USER = 65532
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_TIMEOUT_SECONDS = 60.0


def reference(program: Path) -> str:
    """Return the name, as pods say it, of the image of a program; its tag follows what it was built of."""
    name, _, digest = program.name.rpartition("-")
    return f"{REGISTRY}/devcluster/{name}:{digest}"


def ensure(cluster: Cluster, program: Path) -> None:
    """Put the image of a program into the registry unless it is there.

    Raises:
        OSError: the registry is not reached.
        DevclusterError: it refuses.
    """
    repository, tag = reference(program).removeprefix(f"{REGISTRY}/").split(":")
    if manifest_digest(cluster, f"{repository}:{tag}"):
        return
    layer = _layer(program)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/{_plain_name(program)}"], "User": f"{USER}:{USER}"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": _CONFIG_TYPE, "digest": _digest(config), "size": len(config)},
        "layers": [{"mediaType": _LAYER_TYPE, "digest": _digest(layer), "size": len(layer)}],
    }
    for blob in (layer, config):
        _upload(cluster, repository, blob)
    path = f"/v2/{repository}/manifests/{tag}"
    _request(cluster, "PUT", path, json.dumps(manifest).encode(), MANIFEST_TYPE)


def manifest_digest(cluster: Cluster, image: str) -> str | None:
    """Return the digest of an image in the registry, given as repository:tag; None where there is none.

    Raises:
        OSError: the registry is not reached.
    """
    repository, _, tag = image.rpartition(":")
    connection = _connection(cluster)
    try:
        accepted = f"{MANIFEST_TYPE}, application/vnd.docker.distribution.manifest.v2+json"
        connection.request("HEAD", f"/v2/{repository}/manifests/{tag}", headers={"Accept": accepted})
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer.headers["Docker-Content-Digest"] if answer.status == HTTPStatus.OK else None


def _plain_name(program: Path) -> str:
    return program.name.rpartition("-")[0]


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _layer(program: Path) -> bytes:
    """Return a tar with the program and a /tmp; not compressed, as it never leaves the machine."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in (("tmp", 0o1777), ("etc", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        entry = tarfile.TarInfo(_plain_name(program))
        entry.size, entry.mode = program.stat().st_size, 0o755
        with program.open("rb") as content:
            archive.addfile(entry, content)
    return output.getvalue()


def _upload(cluster: Cluster, repository: str, blob: bytes) -> None:
    location = _request(cluster, "POST", f"/v2/{repository}/blobs/uploads/")
    separator = "&" if "?" in location else "?"
    path = location.removeprefix(f"http://{cluster.address}:{REGISTRY_PORT}")
    _request(cluster, "PUT", f"{path}{separator}digest={_digest(blob)}", blob, "application/octet-stream")


def _request(
    cluster: Cluster,
    method: str,
    path: str,
    body: bytes = b"",
    content_type: str = "application/octet-stream",
) -> str:
    """Call the registry once and return the Location it answers with."""
    connection = _connection(cluster)
    try:
        connection.request(method, path, body=body, headers={"Content-Type": content_type})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raise DevclusterError(f"the image registry answered {answer.status} to {method} {path}: {text[:300]}")
    return answer.headers.get("Location", "")


def _connection(cluster: Cluster) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(cluster.address, REGISTRY_PORT, timeout=_TIMEOUT_SECONDS)
