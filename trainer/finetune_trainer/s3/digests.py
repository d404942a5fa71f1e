"""The reports of bytes that a transfer makes, and the digest of a file."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from finetune_trainer.contract import Digest

OnBytes = Callable[[int], None]
"""Called with a number of bytes as soon as they have moved; bytes that move again are reported again. Several
threads may call it at once."""
_PIECE_BYTES = 4 * 1024 * 1024


def ignore_bytes(_count: int) -> None:
    """Ignores the report."""


def digest_of_file(path: Path, on_bytes: OnBytes = ignore_bytes) -> Digest:
    """SHA-256 of a file.

    Args:
        path: of the file.
        on_bytes: is told of the bytes that were read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            on_bytes(len(piece))
    return "sha256:" + digest.hexdigest()
