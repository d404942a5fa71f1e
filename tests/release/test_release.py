"""A release of small images, installed into a real registry."""

import json
import os
import shutil
import socket
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from devcluster import binaries, builder, node, packages
from release.__main__ import CHECKSUMS, make
from tests.release.roots import write_root

NAMES = ("finetune-operator", "finetune-trainer", "finetune-trainer-slim")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Images with the packages of `write_root`, and a file that tells them apart."""
    packages.require(*packages.BUILD_PROGRAMS)
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        write_root(folder / "root")
        (folder / "root/name").write_text(name)
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY root /\n")
        made[name] = f"localhost/{name}-of-a-test:dev"
        bud = ("buildah", "bud", *builder.STORAGE, "--quiet")
        subprocess.run([*bud, "--tag", made[name], folder], check=True)
    yield made
    subprocess.run(["buildah", "rmi", *builder.STORAGE, *made.values()], check=True)


@pytest.fixture(scope="module")
def release(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a release."""
    return make(tmp_path_factory.mktemp("release"), images)


@pytest.fixture
def unpacked(release: Path, tmp_path: Path) -> Path:
    with tarfile.open(release) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / release.stem


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry without TLS; its host and port."""
    folder = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = node.registry_config(folder / "data") | {"http": {"addr": address}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen([binaries.path("registry"), "serve", folder / "config.yaml"])
    try:
        while True:
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"http://{address}/v2/", timeout=5).close()
            except OSError:
                continue
            break
        yield address
    finally:
        process.terminate()
        process.wait(30)


def install(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [folder / "install.sh", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def manifest(registry: str, path: str, reference: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://{registry}/v2/{path}/manifests/{reference}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http only
        found: dict[str, Any] = json.load(answer)
    return found


def test_the_images_are_in_the_registry_and_the_chart_names_their_digests(
    unpacked: Path, registry: str
) -> None:
    done = install(unpacked, f"{registry}/team/finetune", "--insecure")
    assert done.returncode == 0, done.stderr
    values = yaml.safe_load((unpacked / "values-images.yaml").read_text())
    (chart,) = unpacked.glob("*.tgz")
    named = (values["image"], values["trainer"]["image"], values["trainer"]["slimImage"])
    for name, image in zip(NAMES, named, strict=True):
        assert image["repository"] == f"{registry}/team/finetune/{name}"
        stored = manifest(registry, f"team/finetune/{name}", image["digest"])
        exported = json.loads((unpacked / "images" / name / "index.json").read_text())
        assert [m["digest"] for m in exported["manifests"]] == [image["digest"]]
        assert stored["layers"]
        assert manifest(registry, f"team/finetune/{name}", "0.1.0") == stored
    rendered = subprocess.run(
        [binaries.path("helm"), "template", "release", chart, "--values", unpacked / "values-images.yaml"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for image in named:
        assert f"{image['repository']}@{image['digest']}" in rendered
    assert f"helm upgrade --install finetune-operator {chart.name}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((), "usage:", id="no registry"),
        pytest.param(("https://registry.example",), "without a scheme", id="a scheme"),
        pytest.param(("registry.example/x", "--force"), "--force: unknown option", id="an option"),
        pytest.param(("127.0.0.1:9/x", "--insecure"), "could not be pushed to 127.0.0.1:9/x", id="no answer"),
    ],
)
def test_a_mistake_is_told(unpacked: Path, arguments: tuple[str, ...], message: str) -> None:
    done = install(unpacked, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (unpacked / "values-images.yaml").exists()


def test_a_damaged_copy_is_not_installed(unpacked: Path, registry: str) -> None:
    blobs = (unpacked / "images/finetune-trainer/blobs/sha256").iterdir()
    blob = max(blobs, key=lambda path: path.stat().st_size)
    with blob.open("r+b") as file:
        file.write(b"x")
    done = install(unpacked, f"{registry}/damaged", "--insecure")
    assert done.returncode == 1
    assert "a file differs from SHA256SUMS" in done.stderr
    assert blob.name in done.stdout + done.stderr
    assert not (unpacked / "values-images.yaml").exists()


def test_the_bill_of_materials_is_valid_and_lists_every_package(unpacked: Path) -> None:
    for name in NAMES:
        text = (unpacked / f"{name}.cdx.json").read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        bill = json.loads(text)
        assert bill["metadata"]["component"]["name"] == name
        assert sorted(component["purl"] for component in bill["components"]) == [
            "pkg:deb/debian/libc6@2.36-9?distro=debian-12",
            "pkg:deb/debian/tzdata@2026a?distro=debian-12",
            "pkg:pypi/alpha@1.0",
            "pkg:pypi/beta@2.0",
            "pkg:pypi/gamma@3.0",
            "pkg:pypi/silent@0.1",
        ]


def test_the_archive_has_a_checksum_beside_it(release: Path) -> None:
    checked = ["sha256sum", "--check", f"{release.name}.sha256"]
    assert subprocess.run(checked, cwd=release.parent, check=False, timeout=60).returncode == 0


def test_the_release_has_what_an_installation_needs(unpacked: Path) -> None:
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    listed = {line.partition("  ")[2] for line in (unpacked / CHECKSUMS).read_text().splitlines()}
    assert listed == names - {CHECKSUMS}
    assert {
        "finetune-operator-0.1.0.tgz",
        "values-secure.yaml",
        "crds/finetunejobs.yaml",
        "dashboards/job.json",
        "docs/admin-guide.md",
        "LICENSE",
        "NOTICE",
        "licenses/finetune-trainer/alpha-1.0/LICENSE.txt",
        "licenses/finetune-operator/libc6-2.36-9/copyright",
    } <= names
    assert "  alpha 1.0: MIT OR Apache-2.0\n" in (unpacked / "NOTICE").read_text()
    assert os.access(unpacked / "install.sh", os.X_OK)
    assert os.access(unpacked / "bin/crane", os.X_OK)
    assert shutil.which("sha256sum"), "install.sh needs it"
