"""The environment of the contender that needs what the product does not: TRL and what comes with it."""

from functools import cache
from pathlib import Path

from bench import environment

_HERE = Path(__file__).parent


@cache
def python() -> Path:
    """Its Python; the environment is made first where it is not there or of another lock.

    Raises:
        DevclusterError: pip failed; with what it said.
    """
    return environment.python(_HERE / ".venv", _HERE / "requirements.txt", "TRL")
