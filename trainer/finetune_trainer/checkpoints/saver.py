"""IO: uploads checkpoints in a thread beside training, the manifest last; deletes superseded checkpoints."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import ValidationError

from finetune_trainer.checkpoints.documents import MANIFEST, CheckpointManifest, ShardFile
from finetune_trainer.checkpoints.files import HostCopy, Part, digest_of_block
from finetune_trainer.checkpoints.listing import list_checkpoints, read_checkpoint
from finetune_trainer.checkpoints.retention import superseded
from finetune_trainer.contract import CheckpointRef, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.store import Store
from finetune_trainer.s3.storefaults import RETRYABLE

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
_NO_OUTCOME = StageFailure(
    FailureClass.COMMUNICATION, "PeerLost", "the messages of other ranks about a checkpoint cannot be read"
)
"""The outcome of a thread that has lost the board."""

_LOOK_SECONDS = 0.1
"""Seconds between two looks for the messages of other ranks."""
_PAUSE_SECONDS = 10.0
"""Seconds between two tries of an upload that must succeed."""
_HEARTBEAT_SECONDS = 1.0
"""Minimum time in seconds between two heartbeats of a thread."""
_MAY_PASS = RETRYABLE | {"StorageFull"}
"""Reasons of failures after which an upload that must succeed is repeated."""


class Board(Protocol):
    """The messages of the ranks to each other; torch.distributed.Store has these methods."""

    def set(self, key: str, value: str, /) -> None:
        """Publishes a message."""

    def get(self, key: str, /) -> bytes:
        """Returns a message that exists."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all of these messages exist."""

    def add(self, key: str, amount: int, /) -> int:
        """Adds to a counter, which starts at 0, and returns its value."""

    def delete_key(self, key: str, /) -> bool:
        """Deletes a message. Returns whether the message existed."""


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint in S3."""

    name: str
    ref: CheckpointRef
    time: float
    """Unix time at which the checkpoint was complete."""


Describe = Callable[[tuple[ShardFile, ...]], CheckpointManifest]
"""Makes the manifest when the files of all ranks are known."""


class Saver:
    """Saves the share of one rank. At most one checkpoint is being saved at a time.

    Every rank uploads its file and tells rank 0. Rank 0 writes the manifest and tells all ranks, so that all
    ranks know the same outcome.

    Args:
        store: the output store.
        root: folder of the checkpoints of the run, with a slash at the end.
        board: messages between the ranks; used only by the thread.
        rank: global rank.
        world: number of ranks.
        keep: number of the newest checkpoints of the lineage that stay, each with its best checkpoint, see
            `retention.superseded`.
        silence_seconds: seconds without a heartbeat after which a rank no longer waits for the thread of
            another rank.
    """

    def __init__(
        self,
        store: Store,
        root: str,
        board: Board,
        *,
        rank: int,
        world: int,
        keep: int,
        silence_seconds: float,
    ) -> None:
        self._store, self._root, self._board = store, root, board
        self._rank, self._world, self._keep = rank, world, keep
        self._silence_seconds = silence_seconds
        self._copy = HostCopy()
        self._thread: threading.Thread | None = None
        self.resumed: str | None = None
        """The checkpoint from which the gang resumed; None if the gang started at the first step."""
        self._bests: dict[str, str | None] = {}
        """The best checkpoint of each checkpoint whose manifest this rank has written or read."""
        self._hurry, self._ending = threading.Event(), threading.Event()
        self._outcome: Saved | StageFailure = _NO_OUTCOME
        self._number = 0
        self._last_heartbeat = 0.0
        """Time of the last heartbeat of the thread, in seconds of a monotonic clock."""

    @property
    def busy(self) -> bool:
        """Whether the upload of a checkpoint still runs on this rank."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, name: str, parts: Sequence[Part], describe: Describe, *, insist: bool) -> None:
        """Copies the parts to host memory, and uploads them in the background.

        Args:
            name: name of the folder of the checkpoint, equal on all ranks.
            parts: the parts of this rank.
            describe: makes the manifest; called on rank 0, by the thread.
            insist: whether a failed upload is repeated until `wait` is called.
        """
        if self._thread is not None:
            raise AssertionError("a checkpoint is still being saved")
        self._copy.take(parts)
        self._hurry.clear()
        self._outcome = _NO_OUTCOME
        self._number += 1
        save = threading.Thread(
            target=self._save,
            args=(name, describe),
            kwargs={"insist": insist},
            name="checkpoint",
            daemon=True,
        )
        self._thread = save
        save.start()

    def wait(self, on_wait: Callable[[], None], *, last: bool = False) -> Saved | StageFailure | None:
        """Waits for the checkpoint that is being saved. A failed upload is not repeated any more.

        Args:
            on_wait: called several times a second, for the heartbeat.
            last: whether the attempt ends after this checkpoint; then the gang does not wait until
                superseded checkpoints are deleted.

        Returns:
            The checkpoint, or the failure, equal on all ranks; None if no checkpoint was started.
        """
        if self._thread is None:
            return None
        if last:
            self._ending.set()
        self._hurry.set()
        while self._thread.is_alive():
            on_wait()
            self._thread.join(_LOOK_SECONDS)
        self._thread = None
        return self._outcome

    def collect(self) -> Saved | StageFailure | None:
        """The outcome of a checkpoint whose upload has ended; None while the upload runs, and after."""
        return None if self.busy else self.wait(lambda: None)

    def _save(self, name: str, describe: Describe, *, insist: bool) -> None:
        """Runs in the thread. Every path ends with an outcome."""
        key = f"{self._number}-{name}"
        try:
            shard = self._insisting(lambda: self._upload(f"{self._root}{name}/"), insist=insist)
            self._board.set(f"{key}/{self._rank}", shard.model_dump_json())
        except Exception as error:  # noqa: BLE001 - other ranks wait for a message
            self._board.set(f"{key}/{self._rank}", _told(error))
        manifest = self._finish(key, name, describe, insist=insist) if self._rank == 0 else None
        self._outcome = self._await_outcome(key, name)
        if manifest:
            self._bests[name] = manifest.best
            self._prune(name)

    def _insisting(self, act: Callable[[], Answer], *, insist: bool) -> Answer:
        while True:
            self._beat()
            try:
                return act()
            except StageFailure as failure:
                if not insist or self._hurry.is_set() or failure.reason not in _MAY_PASS:
                    raise
                log.warning("%s; the next try comes in %.0f s", failure.message, _PAUSE_SECONDS)
                self._hurry.wait(_PAUSE_SECONDS)

    def _upload(self, folder: str) -> ShardFile:
        digests: list[str] = []

        def blocks() -> Iterator[memoryview]:
            digests.clear()
            for block in self._copy.blocks():
                digests.append(digest_of_block(block))
                self._beat()
                yield block

        path = f"{self._rank:05d}.safetensors"
        size = len(self._copy.header) + self._copy.data_bytes
        self._store.upload_pieces(folder + path, size, blocks)
        return ShardFile(
            path=path,
            header_bytes=len(self._copy.header),
            data_bytes=self._copy.data_bytes,
            digests=tuple(digests),
        )

    def _finish(self, key: str, name: str, describe: Describe, *, insist: bool) -> CheckpointManifest | None:
        """Rank 0: writes the manifest after the files of all ranks, and tells all ranks.

        Returns:
            The manifest; None if the checkpoint was not saved.
        """
        try:
            told = [self._hear(f"{key}/{rank}", rank) for rank in range(self._world)]
            for rank in range(self._world):
                self._board.delete_key(f"{key}/{rank}")
            manifest = describe(tuple(_shard_of(text) for text in told))
            uri = f"{self._root}{name}/{MANIFEST}"
            sent = self._insisting(lambda: self._store.write(uri, manifest.encode()), insist=insist)
            ref = CheckpointRef(step=manifest.step, digest=sent.digest)
            log.info("checkpoint %s is complete: %.1f MB", name, manifest.size / 1e6)
            self._board.set(f"{key}/outcome", ref.model_dump_json())
        except Exception as error:  # noqa: BLE001 - other ranks wait for a message
            self._board.set(f"{key}/outcome", _told(error))
            return None
        return manifest

    def _prune(self, written: str) -> None:
        """Deletes superseded and incomplete checkpoints until the attempt ends; a failure is only logged."""
        try:
            found = list_checkpoints(self._store, self._root)
            names = superseded(
                found.complete,
                found.incomplete,
                written=written,
                resumed=self.resumed,
                keep=self._keep,
                best_of=self._best_of,
            )
            for name in names:
                if self._ending.is_set():
                    return
                # Without its manifest, a partly deleted folder is no checkpoint.
                self._store.delete([f"{self._root}{name}/{MANIFEST}"])
                self._store.clear(f"{self._root}{name}/")
        except Exception as error:  # noqa: BLE001 - the checkpoint is saved
            log.warning("superseded checkpoints stay: %s", error)

    def _best_of(self, name: str) -> str | None:
        """The best checkpoint when a checkpoint was saved; None also if its manifest cannot be read."""
        if name not in self._bests:
            checkpoint = read_checkpoint(self._store, self._root, name)
            self._bests[name] = checkpoint.manifest.best if checkpoint else None
        return self._bests[name]

    def _await_outcome(self, key: str, name: str) -> Saved | StageFailure:
        try:
            told = self._hear(f"{key}/outcome", 0)
        except StageFailure as failure:
            return failure
        try:
            return Saved(name, CheckpointRef.model_validate_json(told), time.time())
        except ValidationError:
            return _failure_of(told)

    def _hear(self, key: str, rank: int) -> str:
        """Waits for the message of a rank as long as its thread sends heartbeats.

        Raises:
            StageFailure: class Communication (PeerLost), after silence_seconds without a heartbeat.
        """
        heartbeats, since = -1, time.monotonic()
        while not self._board.check([key]):
            self._beat()
            if (count := self._board.add(_heartbeats_of(rank), 0)) != heartbeats:
                heartbeats, since = count, time.monotonic()
            elif time.monotonic() - since > self._silence_seconds:
                raise StageFailure(
                    FailureClass.COMMUNICATION,
                    "PeerLost",
                    f"rank {rank} sent no heartbeat for {self._silence_seconds:.0f} s during a checkpoint",
                )
            time.sleep(_LOOK_SECONDS)
        return self._board.get(key).decode()

    def _beat(self) -> None:
        """Sends a heartbeat of this thread to the other ranks."""
        if time.monotonic() - self._last_heartbeat >= _HEARTBEAT_SECONDS:
            self._last_heartbeat = time.monotonic()
            self._board.add(_heartbeats_of(self._rank), 1)


def _heartbeats_of(rank: int) -> str:
    """The key of the counter of the heartbeats of a rank."""
    return f"heartbeats/{rank}"


def _shard_of(told: str) -> ShardFile:
    try:
        return ShardFile.model_validate_json(told)
    except ValidationError:
        raise _failure_of(told) from None


def _told(error: Exception) -> str:
    """An error as a message to other ranks."""
    if not isinstance(error, StageFailure):
        error = StageFailure(FailureClass.INTERNAL, "UnexpectedError", f"{type(error).__name__}: {error}")
    return "\n".join((error.failure, error.reason, error.hint.replace("\n", " "), error.message))


def _failure_of(told: str) -> StageFailure:
    failure, reason, hint, message = told.split("\n", 3)
    return StageFailure(FailureClass(failure), reason, message, hint)
