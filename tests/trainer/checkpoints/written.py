"""Writes checkpoints of several ranks in one process."""

import time
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Any

import pytest
import torch.distributed as dist

from finetune_trainer.checkpoints import files
from finetune_trainer.checkpoints.documents import CheckpointManifest, ShardFile
from finetune_trainer.checkpoints.files import Part
from finetune_trainer.checkpoints.retention import step_of
from finetune_trainer.checkpoints.saver import Saved, Saver
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.store import Store

IDENTITY = "sha256:" + "1" * 64


def manifest_of(name: str, shards: tuple[ShardFile, ...], best: str | None = None, **values: Any) -> Any:
    usual = {
        "step": step_of(name),
        "samples": 8 * step_of(name),
        "world": len(shards),
        "zero_stage": 2,
        "attempt": 1,
        "config": IDENTITY,
        "identity": IDENTITY,
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"python": "3"},
        "best": best,
        "block_bytes": files.BLOCK_BYTES,
        "shards": shards,
        "loop": {},
    }
    return CheckpointManifest.model_validate({**usual, **values})


def savers(store: Store, root: str, world: int, keep: int = 100) -> list[Saver]:
    """The savers of all ranks of a gang."""
    board = dist.HashStore()
    return [saver(store, root, board, rank, world, keep) for rank in range(world)]


def saver(
    store: Store, root: str, board: dist.Store, rank: int, world: int, keep: int = 100, silence: float = 600
) -> Saver:
    """The saver of one rank."""
    return Saver(store, root, board, rank=rank, world=world, keep=keep, silence_seconds=silence)


def save(
    gang: Sequence[Saver],
    name: str,
    ranks: Sequence[Sequence[Part]],
    best: str | None = None,
    *,
    insist: bool = False,
    **values: Any,
) -> list[Saved | StageFailure | None]:
    """Saves one checkpoint with all ranks. Returns the outcome of each rank."""
    for saver, parts in zip(gang, ranks, strict=True):
        saver.start(name, parts, lambda shards: manifest_of(name, shards, best, **values), insist=insist)
    return wait(gang)


def wait(gang: Sequence[Saver]) -> list[Saved | StageFailure | None]:
    """Waits with all ranks at the same time. Returns the outcome of each rank."""
    outcomes: dict[int, Saved | StageFailure | None] = {}

    def of(rank: int) -> None:
        outcomes[rank] = gang[rank].wait(lambda: None)

    threads = [Thread(target=of, args=(rank,)) for rank in range(len(gang))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcomes[rank] for rank in range(len(gang))]


def write(store: Store, root: str, name: str, ranks: Sequence[Sequence[Part]], **values: Any) -> Saved:
    """Writes a complete checkpoint."""
    first, *_ = save(savers(store, root, len(ranks)), name, ranks, **values)
    assert isinstance(first, Saved), first
    return first


def gated(store: Store, monkeypatch: pytest.MonkeyPatch) -> Event:
    """Holds the uploads of files to a store until the event is set."""
    gate, upload = Event(), store.upload_pieces

    def wait_and_upload(*arguments: Any) -> None:
        assert gate.wait(60)
        upload(*arguments)

    monkeypatch.setattr(store, "upload_pieces", wait_and_upload)
    return gate


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
