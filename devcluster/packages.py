"""The Debian packages whose programs are used: which are missing, and how to get them."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from devcluster.places import DevclusterError, cache
from devcluster.progress import say

# The program whose presence shows that a package is there.
PROGRAMS = {
    "etcd-server": "etcd",
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "ip",
    "iptables": "iptables",
    "ipset": "ipset",
    "nftables": "nft",
    "conntrack": "conntrack",
    "util-linux": "nsenter",
}
BUILD_PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "ca-certificates": "/etc/ssl/certs"}

TEST_PROGRAMS = {"faketime": "faketime"}


def absent(programs: dict[str, str]) -> list[str]:
    """Return the packages whose program is not there."""
    # A user's PATH often lacks the sbin folders that half of these live in.
    search = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    return [
        package
        for package, program in programs.items()
        if not (Path(program).exists() if program.startswith("/") else shutil.which(program, path=search))
    ]


def require(*names: str) -> None:
    """See that packages are there, installing what is missing where that is allowed.

    Raises:
        DevclusterError: some are missing and cannot be installed; it names them and the command.
    """
    known = PROGRAMS | BUILD_PROGRAMS | TEST_PROGRAMS
    wanted = absent({name: known[name] for name in names})
    if not wanted:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise DevclusterError(
            f"missing Debian packages: {', '.join(wanted)}; install them: sudo {' '.join(command)}"
        )
    say(f"  installing {', '.join(wanted)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "--quiet"], env=environment, check=False, stdout=subprocess.DEVNULL)
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)
    still = absent({name: known[name] for name in names})
    if done.returncode != 0 or still:
        raise DevclusterError(
            f"`{' '.join(command)}` did not bring {', '.join(still or wanted)}; its output is above"
        )


def unpacked(package: str) -> Path:
    """Return a folder with the files of a Debian package, which is neither installed nor started.

    The package is downloaded once into the cache.

    Raises:
        DevclusterError: the package cannot be downloaded.
    """
    folder = cache() / "debian" / package
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        for command in (["apt-get", "update", "--quiet"], ["apt-get", "download", "--quiet", package]):
            done = subprocess.run(command, cwd=fresh, check=False, stdout=subprocess.DEVNULL)
        files = list(Path(fresh).glob("*.deb"))
        if done.returncode != 0 or len(files) != 1:
            raise DevclusterError(f"`apt-get download {package}` failed; its output is above")
        subprocess.run(["dpkg", "-x", files[0], f"{fresh}/root"], check=True)
        Path(fresh, "root").rename(folder)
    return folder
