"""Environments with packages that the product does not have, over the environment of the project."""

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

from devcluster.places import DevclusterError, locked
from devcluster.progress import step

_INSTALL = ("-m", "pip", "install", "--no-deps", "--require-hashes", "-r")


def python(folder: Path, lock: Path, what: str) -> Path:
    """The Python of an environment; makes the environment first if it is missing or of another lock.

    Args:
        folder: folder of the environment. Its packages come before those of the project.
        lock: requirements file with hashes.
        what: the installed packages, for messages.

    Raises:
        DevclusterError: pip failed; with its output.
    """
    with locked(folder.with_name(f"{folder.name}.lock")):
        done, digest = folder / ".digest", hashlib.sha256(lock.read_bytes()).hexdigest()
        if not done.exists() or done.read_text() != digest:
            with step(f"installing {what}"):
                _run(what, sys.executable, "-m", "venv", "--clear", str(folder))
                _run(what, folder / "bin/python", *_INSTALL, lock)
            (own,) = folder.glob("lib/python*/site-packages")
            (own / "project.pth").write_text(sysconfig.get_path("purelib"))
            done.write_text(digest)
    return folder / "bin/python"


def _run(what: str, *command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - pip and venv
    if done.returncode != 0:
        raise DevclusterError(f"the environment of {what}: {(done.stdout + done.stderr).strip()[-600:]}")
