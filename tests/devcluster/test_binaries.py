import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster import binaries
from devcluster.places import DevclusterError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # What Go has compiled is kept: it would compile its whole library again for each test.
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    monkeypatch.setenv("GOCACHE", os.environ.get("GOCACHE", str(caches / "go-build")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the smallest module, to change."""
    module = tmp_path / "go" / "pause"
    module.mkdir(parents=True)
    for file in (binaries.GO_MODULES / "pause").iterdir():
        (module / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(binaries, "GO_MODULES", tmp_path / "go")
    return module


def test_a_program_is_built_once_and_runs() -> None:
    assert binaries.missing(("pause",)) == ["pause"]
    built = binaries.path("pause")
    before = built.stat().st_mtime_ns
    assert binaries.path("pause").stat().st_mtime_ns == before
    assert binaries.missing(("pause",)) == []
    with subprocess.Popen([built]) as process:
        process.terminate()
        process.wait(10)


def test_two_that_need_it_at_once_build_it_once() -> None:
    asking = [sys.executable, "-m", "devcluster", "program", "pause"]
    both = [
        subprocess.Popen(asking, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    told = [process.communicate() for process in both]
    assert told[0][0] == told[1][0]
    assert sum(b"building pause" in output for _, output in told) == 1


def test_a_changed_pin_makes_another_program(own_modules: Path) -> None:
    first = binaries.path("pause")
    (own_modules / "go.mod").write_text((own_modules / "go.mod").read_text() + "\n// changed\n")
    second = binaries.path("pause")
    assert first != second
    assert first.exists()


def test_a_program_of_another_folder_is_built_the_same_way(own_modules: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    own_modules.rename(elsewhere)
    program = replace(binaries.PROGRAMS["pause"], module=elsewhere)
    built = binaries.built("my-pause", program)
    assert built.name.startswith("my-pause-")
    assert built == binaries.built("my-pause", program)


def test_a_failing_build_says_what_the_compiler_said_and_leaves_nothing(
    own_modules: Path, tmp_path: Path
) -> None:
    (own_modules / "main.go").write_text("package main\n\nfunc main() { missing() }\n")
    with pytest.raises(DevclusterError, match="undefined: missing"):
        binaries.path("pause")
    assert [entry.name for entry in (tmp_path / "cache/finetune-operator/bin").iterdir()] == [".pause.lock"]


def test_an_unknown_program_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DevclusterError, match=r"no program named 'kubctl'.*kubectl"):
        binaries.path("kubctl")


def test_links_have_plain_names(tmp_path: Path) -> None:
    for _ in range(2):
        binaries.link(tmp_path / "bin", ("pause",))
    assert [entry.name for entry in (tmp_path / "bin").iterdir()] == ["pause"]
    assert (tmp_path / "bin" / "pause").resolve() == binaries.path("pause")


def test_every_version_is_pinned_with_its_checksum() -> None:
    for program in binaries.PROGRAMS.values():
        module = binaries.GO_MODULES / program.module
        assert "latest" not in (module / "go.mod").read_text()
        assert (module / "go.sum").exists()


def test_the_control_plane_has_the_versions_that_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in binaries.OLD_KUBERNETES_VERSIONS:
        module = binaries.GO_MODULES / f"kubernetes-{binaries.minor_version(version)}"
        assert f"require k8s.io/kubernetes {version}\n" in (module / "go.mod").read_text()
    monkeypatch.setenv("KUBERNETES", "1.2")
    with pytest.raises(DevclusterError, match=r"1\.2: unknown version; there are 1\.30, 1\.33, 1\.36"):
        binaries.control_plane_program("kube-apiserver")
