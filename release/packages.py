"""Lists the packages of an image from its files, with their licences."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

SITE_PACKAGES = ("opt/venv/lib/python3.13/site-packages", "opt/finetune")
"""Folders of Python packages in the images."""
DPKG_STATUS = "var/lib/dpkg/status"
_CLASSIFIER = "License :: "
_LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|authors)[^/]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """A package of an image.

    Attributes:
        kind: `pypi` or `deb`, the type of a package URL (https://github.com/package-url/purl-spec).
        name: name in the package index.
        version: version in the package index.
        licence: the licence as the package states it; empty if the package states none.
        texts: files in the image with texts of licences.
    """

    kind: str
    name: str
    version: str
    licence: str
    texts: tuple[Path, ...] = ()


def packages(root: Path) -> list[Package]:
    """Lists the packages below the root folder of an image, sorted by kind and name."""
    found = {*_debian(root), *python_packages(root / folder for folder in SITE_PACKAGES)}
    return sorted(found, key=lambda package: (package.kind, package.name, package.version))


def python_packages(folders: Iterable[Path]) -> Iterator[Package]:
    """Lists the Python packages in folders such as site-packages."""
    for distribution in distributions(path=[str(folder) for folder in folders]):
        yield Package(
            "pypi",
            distribution.metadata["Name"],
            distribution.version,
            _python_licence(distribution),
            tuple(
                Path(str(distribution.locate_file(file)))
                for file in distribution.files or ()
                if ".dist-info/" in str(file) and _LICENCE_FILE.search(str(file))
            ),
        )


def _python_licence(distribution: Distribution) -> str:
    """The licence expression, else the classifiers, else the first line of the field License."""
    metadata = distribution.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in metadata.get_all("Classifier") or ()
        if text.startswith(_CLASSIFIER) and text != "License :: OSI Approved"
    ]
    if classifiers:
        return ", ".join(sorted(classifiers))
    stated = "".join(metadata.get_all("License") or ())
    return next(iter(stated.strip().splitlines()), "")


def _debian(root: Path) -> Iterator[Package]:
    status = root / DPKG_STATUS
    for stanza in status.read_text(encoding="utf-8").split("\n\n") if status.is_file() else ():
        fields = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            copyright_file = root / "usr/share/doc" / fields["Package"] / "copyright"
            known = copyright_file.is_file()
            yield Package(
                "deb",
                fields["Package"],
                fields["Version"],
                _debian_licence(copyright_file) if known else "",
                (copyright_file,) if known else (),
            )


def _debian_licence(file: Path) -> str:
    """The short names of a machine-readable copyright file, else a pointer to the file."""
    names = re.findall(r"^License: *(\S.*)$", file.read_text("utf-8", "replace"), re.MULTILINE)
    return ", ".join(sorted(set(names))) or "see the file copyright"
