"""What the node has pulled: an image that a newer one replaces is given up, else the cache only grows."""

import subprocess

from devcluster import status
from devcluster.cluster import Cluster

_IMAGES = ("ctr", "--namespace", "k8s.io", "images")


def forget_others(cluster: Cluster, image: str) -> None:
    """Remove what the node has pulled under this image's name but not of its digest.

    A pod that runs keeps what it runs from; one that starts again pulls it from the registry once more.

    Args:
        cluster: whose node.
        image: NAME@DIGEST.
    """
    holder = status.inside(cluster)
    if holder is None:
        return
    enter = ("nsenter", f"--target={holder}", "--mount", "--")
    listed = subprocess.run([*enter, *_IMAGES, "ls"], capture_output=True, text=True, check=False).stdout
    names = replaced(listed, image)
    if names:
        subprocess.run([*enter, *_IMAGES, "rm", *names], capture_output=True, check=False)


def replaced(listed: str, image: str) -> list[str]:
    """Return all names of the images that another one replaces.

    Args:
        listed: what `ctr images ls` prints, each line beginning with a name, a type and a digest; an image
            has a line for each of its names.
        image: NAME@DIGEST of the one that stays.
    """
    name, _, digest = image.partition("@")
    rows = [line.split()[:3:2] for line in listed.splitlines()[1:]]
    old = {found for known, found in rows if known.startswith(f"{name}@") and found != digest}
    return [known for known, found in rows if found in old]
