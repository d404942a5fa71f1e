"""The type of the callback for transferred bytes, and the digest of a file."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from finetune_trainer.contract import Digest

OnBytes = Callable[[int], None]
"""A callback that receives the number of bytes of each step of a transfer, also of repeated steps. Several
threads may call the callback at the same time."""
_PIECE_BYTES = 4 * 1024 * 1024


def ignore_bytes(_count: int) -> None:
    """A callback without effect."""


def digest_of_file(path: Path, on_bytes: OnBytes = ignore_bytes) -> Digest:
    """SHA-256 of a file.

    Args:
        path: path of the file.
        on_bytes: receives the number of bytes of each read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            on_bytes(len(piece))
    return "sha256:" + digest.hexdigest()
