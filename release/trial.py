"""Tries a release in the embedded cluster, with the network cut: `python -m release.trial ARCHIVE`.

install.sh loads the images into the registry of the cluster, Helm installs the chart of the archive with
values-secure.yaml, and the job of the demo runs. The trial fails if a packet comes to the gateway of the
node.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from devcluster import outbound, status
from devcluster.cluster import REGISTRY, REGISTRY_PORT, Cluster, chosen
from devcluster.progress import say, step
from devcluster.up import up
from examples import demo

STORE = "embedded"
"""Name of the store of the embedded cluster in the settings."""


def main() -> int:
    """Tries a release; returns 0 if the job succeeded and no packet left the cluster."""
    parser = argparse.ArgumentParser(prog="python -m release.trial", description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--job", choices=tuple(demo.INPUTS), default="debian-sections")
    arguments = parser.parse_args()
    began = time.monotonic()
    job = yaml.safe_load((demo.EXAMPLES / f"{arguments.job}.yaml").read_text())
    up(cluster := chosen())
    target = demo.Target(cluster.kubeconfig, demo.embedded_store(cluster), images={})
    with tempfile.TemporaryDirectory() as unpacked, outbound.watched(cluster) as gateway:
        with step("unpacking the archive"), tarfile.open(arguments.archive) as tar:
            tar.extractall(unpacked, filter="data")
        (folder,) = Path(unpacked).iterdir()
        load_images(cluster, folder)
        (folder / "site.yaml").write_text(yaml.safe_dump(site_values(job)))
        files = [folder / name for name in ("values-secure.yaml", "values-images.yaml", "site.yaml")]
        (chart,) = folder.glob("finetune-operator-*.tgz")
        demo.install(target, *(f"--values={file}" for file in files), chart=chart)
        demo.prepare_namespace(target, job)
        demo.upload(target.store, demo.INPUTS[arguments.job])
        demo.forget(target, job)
        job["spec"]["storage"] = {"store": STORE}
        demo.kubectl(target, "apply", "-f", "-", given=job)
        finished = demo.watch(target, job)
        left = gateway.destinations()
    demo.summarise(target, job, finished)
    say(f"addresses outside the cluster that it tried to reach: {', '.join(left) or 'none'}")
    say(f"the trial took {time.monotonic() - began:.0f} s")
    return 0 if demo.condition(finished, "Succeeded") == "True" and not left else 1


def load_images(cluster: Cluster, folder: Path) -> None:
    """Runs install.sh in the network of the node.

    Raises:
        subprocess.CalledProcessError: install.sh failed; its output is on the terminal.
    """
    registry = f"{cluster.address}:{REGISTRY_PORT}"
    enter = ("nsenter", f"--target={status.running(cluster)['kubelet']}", "--net")
    with step("loading the images with install.sh"):
        subprocess.run(  # noqa: S603 - a program of the release, arguments are a list
            [*enter, folder / "install.sh", f"{registry}/release", "--insecure"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    # The node knows the registry by a name.
    values = folder / "values-images.yaml"
    values.write_text(values.read_text().replace(registry, REGISTRY))


def site_values(job: dict[str, Any]) -> dict[str, object]:
    """Values of the site: one node, the store of the job, and the Secret that its pods may mount."""
    storage = job["spec"]["storage"]
    store = {
        "endpoint": storage["endpoint"],
        "caBundleRef": storage["caBundleRef"],
        "secretRef": storage["secretRef"],
        "egress": {"namespaces": ["storage"], "ports": [9000]},
    }
    return {
        "replicas": 1,
        "settings": {"stores": {STORE: store}},
        "admissionPolicy": {"operator": {"secretNames": [storage["secretRef"]["name"]]}},
    }


if __name__ == "__main__":
    sys.exit(main())
