"""Where files are kept: what is expensive to make in the cache folder, what one cluster owns in its state."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = "finetune-operator"
REPOSITORY = Path(__file__).resolve().parent.parent


class DevclusterError(Exception):
    """Something a person can act on; its text says what, and the way out."""


def cache() -> Path:
    """Return the user's cache folder of this project: binaries, the base image, the registry's data."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / PROJECT


def state() -> Path:
    """Return the folder that holds one folder for each cluster that is up, or half up."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / PROJECT


def write_whole(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file that is there completely or not at all, whenever the writer is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    draft.rename(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the kernel gives it back however the holder ends.

    The file itself stays: removing a lock file lets two processes hold "the" lock on two files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
