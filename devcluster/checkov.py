"""checkov, a scanner of Kubernetes manifests: `command()` starts the version that `python/checkov.txt` locks.

checkov has an environment of its own in the cache, because checkov pins packages that the project also uses.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from devcluster.places import DevclusterError, cache, locked
from devcluster.progress import step

_LOCK = Path(__file__).parent / "python" / "checkov.txt"
_INSTALL = ("-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r")


def command() -> tuple[str, ...]:
    """Return the beginning of a command line of checkov, which is installed first if the cache has none.

    Raises:
        DevclusterError: the installation failed; the message quotes pip.
    """
    folder = cache() / "checkov" / hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:12]
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    with locked(cache() / "checkov" / ".lock"):
        if not complete.exists():
            with step("installing checkov"):
                _run(sys.executable, "-m", "venv", "--clear", str(folder))
                _run(str(python), *_INSTALL, str(_LOCK))
            complete.touch()
    # `-I`: the sources of the project, which are on the path of the caller, hide no package of checkov.
    return (str(python), "-I", "-m", "checkov.main")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DevclusterError(f"checkov cannot be installed: {(done.stdout + done.stderr).strip()[-600:]}")
