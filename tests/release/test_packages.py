"""The packages of an image, from its files."""

import re
import sysconfig
from pathlib import Path

from packaging.utils import canonicalize_name

from release.packages import packages, python_packages
from tests.release.roots import DEP5, write_root

ROOT = Path(__file__).parents[2]


def test_packages_have_name_version_and_licence(tmp_path: Path) -> None:
    write_root(tmp_path)
    found = packages(tmp_path)
    assert [(p.kind, p.name, p.version, p.licence) for p in found] == [
        ("deb", "libc6", "2.36-9", "GPL-2, LGPL-2.1+"),
        ("deb", "tzdata", "2026a", "see the file copyright"),
        ("pypi", "alpha", "1.0", "MIT OR Apache-2.0"),
        ("pypi", "beta", "2.0", "BSD License"),
        ("pypi", "gamma", "3.0", "NVIDIA Proprietary Software"),
        ("pypi", "silent", "0.1", ""),
    ]
    assert [text.name for text in found[2].texts] == ["LICENSE.txt"]
    assert found[0].texts[0].read_text() == DEP5


def test_an_image_without_packages_has_none(tmp_path: Path) -> None:
    assert packages(tmp_path) == []


def test_every_locked_package_of_the_images_states_a_licence() -> None:
    """The environment of the tests has the Python packages of both images."""
    lock = "".join((ROOT / f"requirements/{name}.txt").read_text() for name in ("operator", "trainer"))
    locked = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    installed = {canonicalize_name(p.name): p for p in python_packages([Path(sysconfig.get_path("purelib"))])}
    assert locked <= set(installed)
    # cuda-toolkit has no files of its own: it only requires the packages of NVIDIA.
    assert [name for name in sorted(locked) if not installed[name].licence] == ["cuda-toolkit"]
