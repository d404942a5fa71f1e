"""The project's images: built from its Dockerfile without a daemon, and put where the node pulls from."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from devcluster import packages, processes, pulled, status
from devcluster.cluster import REGISTRY, REGISTRY_PORT, Cluster
from devcluster.places import REPOSITORY, DevclusterError, cache, locked
from devcluster.progress import step

TARGETS = ("operator", "trainer", "trainer-slim")
# Stands in for docker.io/library/debian:trixie-slim where no registry can be reached.
BASE = "localhost/debian:trixie"
_SUITE = "trixie"
STORAGE = ("--storage-driver", "overlay")
"""Options of buildah: where the images of this machine are."""


def image_name(target: str) -> str:
    """Return the local name of a target's image; any other name is taken to be one already."""
    return f"localhost/finetune-{target}:dev" if target in TARGETS else target


def name_in_registry(image: str) -> str:
    """Return an image's name and tag without the registry it came from."""
    registry, _, rest = image.partition("/")
    is_registry = "." in registry or ":" in registry or registry == "localhost"
    return rest if rest and is_registry else image


def build(target: str, sources: Path = REPOSITORY, name: str = "") -> str:
    """Build the image of a Dockerfile target, and return its local name. Unchanged layers are kept.

    Args:
        target: `operator` or `trainer`.
        sources: folder of the Dockerfile and of the sources.
        name: local name of the image, if not the usual one.

    Raises:
        DevclusterError: an unknown target, or a build that fails; with the end of its output.
    """
    if target not in TARGETS:
        raise DevclusterError(f"no image target {target!r}; there are {', '.join(TARGETS)}")
    packages.require(*packages.BUILD_PROGRAMS)
    with locked(cache() / "lock" / "base"):
        _ensure_base()
    command = [
        *("buildah", "bud", "--isolation", "chroot", "--network", "host", *STORAGE, "--layers"),
        *("--build-arg", f"BASE_IMAGE={BASE}", "--target", target, "--tag", name or image_name(target)),
        *_index(),
        *_authorities(),
        str(sources),
    ]
    _run(command, f"building the {target} image", f"image-{target}")
    return name or image_name(target)


def load(cluster: Cluster, image: str) -> str:
    """Push a local image to the registry that the cluster pulls from; return its name there, by digest.

    Layers that the registry has are not sent again; what the node pulled under this name before is given up.

    Raises:
        DevclusterError: no such image, or the cluster is not up.
    """
    packages.require("buildah")
    # Not by its port: some networks answer for every address that is not theirs.
    if "registry" not in status.running(cluster):
        raise DevclusterError(f"cluster {cluster.name} is not up: run `python -m devcluster up`")
    local = image_name(image)
    path = name_in_registry(local)
    # An image never leaves the machine: what counts is the time to pack and unpack it.
    fast = (
        "--tls-verify=false",
        "--format",
        "oci",
        "--compression-format",
        "zstd",
        "--compression-level",
        "1",
    )
    digest = _push(local, f"{cluster.address}:{REGISTRY_PORT}/{path}", *fast)
    loaded = f"{REGISTRY}/{path.partition(':')[0]}@{digest}"
    pulled.forget_others(cluster, loaded)
    return loaded


def push(image: str, reference: str) -> str:
    """Push a local image to a registry of your own, logged in as buildah or docker is; return its name there.

    Args:
        image: a target of the Dockerfile, or any local name.
        reference: `HOST/PATH:TAG` in that registry.

    Raises:
        DevclusterError: no such image, or the registry refuses it.
    """
    packages.require("buildah")
    repository, _, _ = reference.rpartition(":")
    return f"{repository}@{_push(image_name(image), reference)}"


def _push(local: str, reference: str, *options: str) -> str:
    """Push an image; return the digest of its manifest."""
    with tempfile.TemporaryDirectory() as folder:
        digest = Path(folder) / "digest"
        command = [
            "buildah",
            "push",
            *STORAGE,
            *options,
            "--digestfile",
            str(digest),
            local,
            f"docker://{reference}",
        ]
        _run(command, f"loading {local}", "image-load")
        return digest.read_text().strip()


def _ensure_base() -> None:
    """Make a minimal Debian image from the Debian mirror this machine uses, once."""
    there = subprocess.run(
        ["buildah", "images", *STORAGE, "--quiet", BASE], capture_output=True, text=True, check=False
    )
    if there.returncode == 0 and there.stdout.strip():
        return
    folder = cache() / "base"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{_SUITE}.tar"
    if not archive.exists():
        draft = folder / f".{_SUITE}.{os.getpid()}.tar"
        bootstrap = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", _SUITE, str(draft)]
        _run([*bootstrap, *_mirrors()], "making a Debian base image", "image-base")
        draft.rename(archive)
    with tempfile.NamedTemporaryFile("w", suffix=".Dockerfile") as recipe:
        recipe.write(f'FROM scratch\nADD {archive.name} /\nCMD ["bash"]\n')
        recipe.flush()
        _run(
            ["buildah", "bud", *STORAGE, "--file", recipe.name, "--tag", BASE, str(folder)],
            "importing the Debian base image",
            "image-base",
        )


def _mirrors() -> list[str]:
    """Return apt source lines of this machine's Debian mirrors; none leaves the choice to mmdebstrap."""
    form = "$(ORIGIN)|$(CODENAME)|deb $(REPO_URI) $(CODENAME) $(COMPONENT)"
    told = _output(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    lines = [line.split("|") for line in told.splitlines()]
    known = {f"{_SUITE}{part}" for part in ("", "-updates", "-security")}
    return sorted({line for origin, suite, line in lines if origin == "Debian" and suite in known})


def _index() -> list[str]:
    """Return the build argument that names this machine's Python package index, if not the public one.

    Raises:
        DevclusterError: the address holds a password, which an image's history would show.
    """
    url = os.environ.get("PIP_INDEX_URL") or _output(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    )
    if not url:
        return []
    if urlsplit(url).username:
        raise DevclusterError(
            "pip's index-url holds a user name, and a build argument ends up in the image's history; "
            "set PIP_INDEX_URL to an address without one for this build"
        )
    return ["--build-arg", f"INDEX_URL={url}"]


def _authorities() -> list[str]:
    """Return the build secret with the authorities this machine trusts; no layer holds it."""
    named = (os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    bundle = next((name for name in named if name), "/etc/ssl/certs/ca-certificates.crt")
    return ["--secret", f"id=ca-bundle,src={bundle}"] if Path(bundle).exists() else []


def _environment() -> dict[str, str]:
    """Return the environment for package downloads: an HTTP proxy that only apt knows is told to all."""
    environment = dict(os.environ)
    proxy = (
        _output(["apt-config", "shell", "proxy", "Acquire::http::Proxy"]).removeprefix("proxy=").strip("'")
    )
    if proxy and proxy != "DIRECT":
        environment.setdefault("http_proxy", proxy)
    return environment


def _output(command: list[str]) -> str:
    """Return what a program that knows a setting prints; nothing where it does not know."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _run(command: list[str], title: str, name: str) -> None:
    log = cache() / "log" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with step(title), log.open("wb") as output:
        done = subprocess.run(
            command, env=_environment(), stdout=output, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode != 0:
            raise DevclusterError(f"{title} failed; the end of {log}:\n{processes.last_lines(log)}")
