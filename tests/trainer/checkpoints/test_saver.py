"""Gangs that save checkpoints to a real S3 server, also through a proxy with faults."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, Lock
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from finetune_trainer.checkpoints import saver as saver_module
from finetune_trainer.checkpoints.files import Part
from finetune_trainer.checkpoints.listing import list_checkpoints, read_checkpoint, usable
from finetune_trainer.checkpoints.saver import Saved
from finetune_trainer.config import StoreAccess
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store, open_store
from tests.trainer.checkpoints.written import IDENTITY, gated, manifest_of, save, saver, savers, until, wait
from tests.trainer.storage import give_keys
from tests.trainer.storeproxy import StoreProxy

RANKS = [[Part("weight", "a", 0, torch.zeros(500))], [Part("weight", "a", 500, torch.ones(500))]]
FIRST, SECOND, THIRD = "00000010-2-pod", "00000020-2-pod", "00000030-2-pod"


@pytest.fixture
def root(bucket: str) -> str:
    return f"s3://{bucket}/checkpoints/"


@pytest.fixture
def proxied(s3_proxy: StoreProxy, paths: Paths) -> Store:
    return open_store(StoreAccess(endpoint=s3_proxy.endpoint), "output", paths)


def test_all_ranks_learn_of_the_complete_checkpoint(store: Store, root: str) -> None:
    before = time.time()
    outcomes = save(savers(store, root, 2), FIRST, RANKS)
    for outcome in outcomes:
        assert isinstance(outcome, Saved)
        assert (outcome.name, outcome.ref.step) == (FIRST, 10)
        assert before <= outcome.time <= time.time()
    checkpoint = read_checkpoint(store, root, FIRST)
    assert checkpoint
    assert checkpoint.ref == outcomes[0].ref  # type: ignore[union-attr]
    manifest = checkpoint.manifest
    assert [shard.path for shard in manifest.shards] == ["00000.safetensors", "00001.safetensors"]
    for shard in manifest.shards:
        info = store.head(f"{root}{FIRST}/{shard.path}")
        assert info
        assert info.size == shard.size


def test_the_newest_and_the_best_checkpoint_stay(store: Store, root: str) -> None:
    newest = "00000040-2-pod"
    store.write(f"{root}00000005-1-dead/00000.safetensors", b"of a rank that died")
    gang = savers(store, root, 2, keep=1)
    for name in (FIRST, SECOND, THIRD):
        save(gang, name, RANKS, best=FIRST)
    found = list_checkpoints(store, root)
    assert found.complete == {FIRST, THIRD}
    assert found.incomplete == set()
    keeps_two = savers(store, root, 2, keep=2)
    keeps_two[0].resumed = THIRD
    save(keeps_two, newest, RANKS, best=newest)
    assert list_checkpoints(store, root).complete == {FIRST, THIRD, newest}, "the best of step 30 stays, too"
    save(gang, newest, RANKS, best=newest)
    assert {entry.uri.removeprefix(root).split("/")[0] for entry in store.list(root)} == {newest}


def test_a_resumed_gang_deletes_the_checkpoints_that_it_could_not_read(store: Store, root: str) -> None:
    earlier = ["00000010-1-pod", "00000020-1-pod", "00000090-1-pod"]
    for name in earlier:
        store.write(f"{root}{name}/manifest.json", b"{}")
    gang = savers(store, root, 1, keep=2)
    gang[0].resumed = earlier[1]
    save(gang, THIRD, RANKS[:1])
    assert list_checkpoints(store, root).complete == {earlier[1], THIRD}


def test_a_gang_that_was_replaced_deletes_nothing(store: Store, root: str) -> None:
    store.write(f"{root}00000005-3-pod/00000.safetensors", b"of the next attempt")
    gang = savers(store, root, 1, keep=1)
    for name in (FIRST, SECOND):
        save(gang, name, RANKS[:1])
    found = list_checkpoints(store, root)
    assert (found.complete, found.incomplete) == ({FIRST, SECOND}, {"00000005-3-pod"})


def test_an_attempt_does_not_wait_for_deletions_after_its_last_checkpoint(
    store: Store, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gang,) = savers(store, root, 1, keep=1)
    save([gang], FIRST, RANKS[:1])
    gate = gated(store, monkeypatch)
    gang.start(SECOND, RANKS[0], lambda shards: manifest_of(SECOND, shards), insist=False)
    assert isinstance(gang.wait(gate.set, last=True), Saved)
    assert list_checkpoints(store, root).complete == {FIRST, SECOND}


def test_a_failed_deletion_does_not_affect_the_checkpoint(
    store: Store, root: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saver_module, "list_checkpoints", lambda *_: 1 / 0)
    (outcome,) = save(savers(store, root, 1), FIRST, RANKS[:1])
    assert isinstance(outcome, Saved)
    assert "superseded checkpoints stay: division by zero" in caplog.text


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("below", ["00001.safetensors", "manifest.json"])
def test_a_failed_upload_leaves_no_checkpoint_and_the_next_one_is_saved(
    store: Store, proxied: Store, s3_proxy: StoreProxy, root: str, below: str
) -> None:
    gang = savers(proxied, root, 2, keep=1)
    save(gang, FIRST, RANKS)
    s3_proxy.suffer("error", "put", "begin upload", below=below)
    for outcome in save(gang, SECOND, RANKS):
        assert isinstance(outcome, StageFailure)
        assert outcome.reason == "StorageError"
        assert below in outcome.message
    s3_proxy.heal()
    found = list_checkpoints(store, root)
    assert (found.complete, found.incomplete) == ({FIRST}, {SECOND})
    assert all(isinstance(outcome, Saved) for outcome in save(gang, THIRD, RANKS))
    found = list_checkpoints(store, root)
    assert (found.complete, found.incomplete) == ({THIRD}, set())


@pytest.mark.usefixtures("hasty")
def test_an_upload_that_must_succeed_is_repeated_until_the_gang_waits(
    proxied: Store, s3_proxy: StoreProxy, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver_module, "_PAUSE_SECONDS", 0.01)
    gang = savers(proxied, root, 1)
    ailment = s3_proxy.suffer("error", "put", "begin upload")
    gang[0].start(FIRST, RANKS[0], lambda shards: manifest_of(FIRST, shards), insist=True)
    until(lambda: len(ailment.suffered) > 20)
    assert gang[0].busy
    assert gang[0].collect() is None
    s3_proxy.heal()
    until(lambda: not gang[0].busy)
    assert isinstance(gang[0].collect(), Saved)
    assert gang[0].collect() is None

    s3_proxy.suffer("error", "put", "begin upload")
    gang[0].start(SECOND, RANKS[0], lambda shards: manifest_of(SECOND, shards), insist=True)
    (outcome,) = wait(gang)
    assert isinstance(outcome, StageFailure)


def test_an_upload_that_the_store_refuses_is_not_repeated(store: Store, root: str, paths: Paths) -> None:
    give_keys(paths, "output", "nobody", "wrong-secret")
    (gang,) = savers(store, root, 1)
    gang.start(FIRST, RANKS[0], lambda shards: manifest_of(FIRST, shards), insist=True)
    until(lambda: not gang.busy)
    outcome = gang.collect()
    assert isinstance(outcome, StageFailure)
    assert outcome.reason == "StorageDenied"


def test_a_rank_waits_for_another_rank_as_long_as_its_thread_sends_heartbeats(
    store: Store, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = dist.HashStore()
    minutes = 0

    def sleep(_: float) -> None:
        nonlocal minutes
        minutes += 1
        if minutes <= 60:
            board.add("heartbeats/1", 1)

    clock = SimpleNamespace(monotonic=lambda: 60.0 * minutes, time=time.time, sleep=sleep)
    monkeypatch.setattr(saver_module, "time", clock)
    gang = saver(store, root, board, 0, 2, silence=1200)
    gang.start(FIRST, RANKS[0], lambda shards: manifest_of(FIRST, shards), insist=True)
    outcome = gang.wait(lambda: None)
    assert isinstance(outcome, StageFailure)
    assert (outcome.reason, minutes) == ("PeerLost", 60 + 21)
    assert "rank 1 sent no heartbeat for 1200 s" in outcome.message
    assert board.add("heartbeats/0", 0) > 60, "a rank that waits sends heartbeats"


def test_the_messages_about_the_files_are_deleted(store: Store, root: str) -> None:
    board = dist.HashStore()
    gang = [saver(store, root, board, rank, 2) for rank in range(2)]
    save(gang, FIRST, RANKS)
    assert board.check([f"1-{FIRST}/outcome"])
    assert not any(board.check([f"1-{FIRST}/{rank}"]) for rank in range(2))


def test_training_goes_on_during_the_upload_and_the_copy_does_not_change(
    store: Store, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.zeros(1000)
    (gang,) = savers(store, root, 1)
    gate = gated(store, monkeypatch)
    gang.start(
        FIRST, [Part("weight", "a", 0, values)], lambda shards: manifest_of(FIRST, shards), insist=False
    )
    values += 1
    assert gang.busy
    beats: list[float] = []

    def on_wait() -> None:
        beats.append(time.monotonic())
        gate.set()

    assert isinstance(gang.wait(on_wait), Saved)
    assert beats
    content = store.read(f"{root}{FIRST}/00000.safetensors")
    assert content.endswith(bytes(4000))


def test_a_bug_in_the_thread_is_reported_and_does_not_hang_the_gang(store: Store, root: str) -> None:
    gang = savers(store, root, 2)
    for each, parts in zip(gang, RANKS, strict=True):
        each.start(FIRST, parts, lambda _shards: 1 / 0, insist=True)  # type: ignore[arg-type,return-value]
    for outcome in wait(gang):
        assert isinstance(outcome, StageFailure)
        assert "ZeroDivisionError" in outcome.message


class Stopped:
    """Stops the writers of a gang, as the death of their processes would, after a number of objects.

    A stopped writer waits until `release`, and then fails.
    """

    def __init__(self, store: Store, objects: int) -> None:
        self._released, self._lock, self._left = Event(), Lock(), objects
        self.stopped = 0
        self._upload, self._write = store.upload_pieces, store.write
        store.upload_pieces = self.upload_pieces  # type: ignore[method-assign]
        store.write = self.write  # type: ignore[assignment,method-assign]

    def upload_pieces(self, *arguments: Any) -> None:
        self._pass()
        self._upload(*arguments)

    def write(self, *arguments: Any) -> Any:
        self._pass()
        return self._write(*arguments)

    def _pass(self) -> None:
        with self._lock:
            self._left -= 1
            passes = self._left >= 0
            self.stopped += not passes
        if not passes:
            assert self._released.wait(60)
            raise StageFailure(FailureClass.STORAGE, "StorageError", "stopped")

    def release(self) -> None:
        self._released.set()


@pytest.mark.parametrize("written", range(10))
def test_a_gang_killed_at_any_tenth_of_an_upload_leaves_the_checkpoint_before_and_no_objects(
    store: Store, access: StoreAccess, paths: Paths, root: str, written: int
) -> None:
    """A checkpoint of nine ranks has ten objects: nine files, and the manifest."""
    shares = [[Part("weight", "a", 100 * rank, torch.ones(100))] for rank in range(9)]
    earlier, killed, later = "00000010-1-pod", "00000020-1-pod", "00000015-2-pod"
    save(savers(store, root, 9), earlier, shares)
    dying = open_store(access, "output", paths)
    stopped = Stopped(dying, written)
    gang = savers(dying, root, 9)
    for rank_saver, parts in zip(gang, shares, strict=True):
        rank_saver.start(killed, parts, lambda shards: manifest_of(killed, shards), insist=False)
    folder = f"{root}{killed}/"
    until(lambda: stopped.stopped == max(1, 9 - written) and len(store.list(folder)) == written)
    (found,) = usable(store, root, IDENTITY)
    assert found.name == earlier
    assert list_checkpoints(store, root).incomplete == ({killed} if written else set())
    resumed = savers(store, root, 1, keep=1)
    resumed[0].resumed = earlier
    save(resumed, later, [[part for share in shares for part in share]])
    stopped.release()
    assert all(isinstance(outcome, StageFailure) for outcome in wait(gang))
    assert {entry.uri.removeprefix(root).split("/")[0] for entry in store.list(root)} == {later}


@pytest.mark.usefixtures("small_parts")
def test_parts_of_an_interrupted_upload_are_no_file_and_are_deleted(
    store: Store, access: StoreAccess, paths: Paths, root: str
) -> None:
    """Three parts of 5 MiB; the writer stops before the third."""
    released, reached = Event(), Event()
    piece = bytes(5 * 1024 * 1024)

    def pieces() -> Iterator[bytes]:
        yield from (piece, piece)
        reached.set()
        assert released.wait(60)
        raise StageFailure(FailureClass.STORAGE, "StorageError", "stopped")

    folder = f"{root}{FIRST}/"
    dying = open_store(access, "output", paths)
    upload = partial(dying.upload_pieces, f"{folder}00000.safetensors", 3 * len(piece), pieces)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(upload)
        assert reached.wait(60)
        assert store.list(root) == []
        assert list(usable(store, root, IDENTITY)) == []
        until(lambda: store.abort_uploads(root) == 1)
        released.set()
        assert ended.exception()
    assert store.abort_uploads(root) == 0
    assert store.list(root) == []
