"""The environment of the contender that needs what the product does not: TRL and what comes with it.

It lies over the project's own, so that torch, transformers and accelerate are the same for all.
"""

import hashlib
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

from devcluster.places import DevclusterError, locked
from devcluster.progress import step

_HERE = Path(__file__).parent
_LOCK = _HERE / "requirements.txt"
_VENV = _HERE / ".venv"
_INSTALL = ("-m", "pip", "install", "--no-deps", "--require-hashes", "-r")


@cache
def python() -> Path:
    """Its Python; the environment is made first where it is not there or of another lock.

    Raises:
        DevclusterError: pip failed; with what it said.
    """
    with locked(_HERE / ".venv.lock"):
        done, digest = _VENV / ".digest", hashlib.sha256(_LOCK.read_bytes()).hexdigest()
        if not done.exists() or done.read_text() != digest:
            with step("installing TRL"):
                _run(sys.executable, "-m", "venv", "--clear", str(_VENV))
                _run(_VENV / "bin/python", *_INSTALL, _LOCK)
            (own,) = _VENV.glob("lib/python*/site-packages")
            (own / "project.pth").write_text(sysconfig.get_path("purelib"))
            done.write_text(digest)
    return _VENV / "bin/python"


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - pip and venv
    if done.returncode != 0:
        raise DevclusterError(f"the environment of TRL: {(done.stdout + done.stderr).strip()[-600:]}")
