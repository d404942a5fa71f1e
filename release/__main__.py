"""Makes a release: `python -m release` writes build/release/finetune-VERSION and the archive of this folder.

The folder has the images (OCI layouts), the chart, the CustomResourceDefinition, the dashboards, the
documentation, a bill of materials and the texts of the licences of each image, checksums, and install.sh,
which loads the images into a registry.
"""

import argparse
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from devcluster import binaries, builder
from devcluster.places import REPOSITORY
from devcluster.progress import say, step
from release.packages import Package, packages
from release.sbom import bill_of_materials

CHART = REPOSITORY / "charts/finetune-operator"
CHECKSUMS = "SHA256SUMS"


def main() -> int:
    """Builds the images and makes the release."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__.partition("\n")[0])
    parser.add_argument("--into", type=Path, default=REPOSITORY / "build/release")
    into = parser.parse_args().into
    archive = make(into, {f"finetune-{target}": builder.build(target) for target in builder.TARGETS})
    say(f"{archive}: {archive.stat().st_size / 2**30:.2f} GiB")
    return 0


def make(into: Path, images: Mapping[str, str]) -> Path:
    """Makes the folder and the archive of a release; returns the archive.

    Args:
        into: folder of the releases.
        images: local names of the images, by their names in the release.

    Raises:
        subprocess.CalledProcessError: a program failed; its output is on the terminal.
    """
    version = str(yaml.safe_load((CHART / "Chart.yaml").read_text())["version"])
    folder = into / f"finetune-{version}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    notice = [f"Packages in the images of finetune {version}, with the licences that the packages state.\n"]
    for name, local in images.items():
        with step(f"exporting {name}"):
            layout = f"oci:{folder / 'images' / name}"
            _run("buildah", "push", *builder.STORAGE, "--quiet", "--format", "oci", local, layout)
        with step(f"listing the packages of {name}"), _mounted(local) as root:
            found = packages(root)
            (folder / f"{name}.cdx.json").write_text(bill_of_materials(name, version, found))
            _copy_licences(found, folder / "licenses" / name)
        notice += [f"\n{name}\n", *(f"  {p.name} {p.version}: {p.licence or 'not stated'}\n" for p in found)]
    (folder / "NOTICE").write_text("".join(notice))
    with step("packing the chart"):
        _run(str(binaries.path("helm")), "package", str(CHART), "--destination", str(folder))
    shutil.copytree(REPOSITORY / "crds", folder / "crds")
    shutil.copytree(CHART / "files/dashboards", folder / "dashboards")
    shutil.copytree(REPOSITORY / "docs", folder / "docs")
    for file in ("LICENSE", "CHANGELOG.md", "SECURITY.md", "release/install.sh"):
        shutil.copy(REPOSITORY / file, folder)
    shutil.copy(CHART / "values-secure.yaml", folder)
    (folder / "bin").mkdir()
    shutil.copy(binaries.path("crane"), folder / "bin/crane")
    with step("computing checksums"):
        (folder / CHECKSUMS).write_text("".join(_checksums(folder)))
    with step("writing the archive"):
        archive = into / f"{folder.name}.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(folder, folder.name)
        archive.with_name(f"{archive.name}.sha256").write_text(_checksum(archive, archive.name))
    return archive


@contextmanager
def _mounted(image: str) -> Iterator[Path]:
    """The root folder of an image."""
    container = _run("buildah", *builder.STORAGE, "from", "--pull-never", image)
    try:
        yield Path(_run("buildah", *builder.STORAGE, "mount", container))
    finally:
        _run("buildah", *builder.STORAGE, "rm", container)


def _copy_licences(found: list[Package], into: Path) -> None:
    for package in found:
        for number, text in enumerate(package.texts):
            if text.is_file():
                target = into / f"{package.name}-{package.version}"
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(text, target / (f"{number}-{text.name}" if number else text.name))


def _checksums(folder: Path) -> Iterator[str]:
    """A line for each file, in the format of sha256sum."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield _checksum(file, file.relative_to(folder).as_posix())


def _checksum(file: Path, name: str) -> str:
    with file.open("rb") as opened:
        return f"{hashlib.file_digest(opened, 'sha256').hexdigest()}  {name}\n"


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own argument list
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
