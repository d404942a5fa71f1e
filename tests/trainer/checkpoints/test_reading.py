"""Checkpoints of one world size, read by another, from a real S3 server."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.checkpoints import files
from finetune_trainer.checkpoints.documents import UnusableCheckpointError
from finetune_trainer.checkpoints.files import Part
from finetune_trainer.checkpoints.listing import read_checkpoint, usable
from finetune_trainer.checkpoints.reading import CheckpointReader
from finetune_trainer.config import StoreAccess
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store, open_store
from tests.trainer.checkpoints.written import IDENTITY, write
from tests.trainer.storeproxy import StoreProxy

NAME = "00000005-1-pod"
SIZES = {"a": 1000, "b": 7, "c": 333}
WHOLE = {name: torch.randn(size) for name, size in SIZES.items()}
Opened = Callable[[], CheckpointReader]


def split(cuts: list[int]) -> list[list[Part]]:
    """The weights of all parameters, cut at positions of the sequence of all elements."""
    bounds = [0, *sorted(cuts), sum(SIZES.values())]
    ranks = []
    for start, end in pairwise(bounds):
        parts, before = [], 0
        for name, size in SIZES.items():
            first, last = max(start, before) - before, min(end, before + size) - before
            if first < last:
                parts.append(Part("weight", name, first, WHOLE[name][first:last]))
            before += size
        ranks.append(parts)
    return ranks


@pytest.fixture
def opened(store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """A checkpoint of three ranks with blocks of 512 bytes."""
    monkeypatch.setattr(files, "BLOCK_BYTES", 512)
    root = f"s3://{bucket}/checkpoints/"
    write(store, root, NAME, split([500, 1003]))

    def open_again(store: Store = store) -> CheckpointReader:
        checkpoint = read_checkpoint(store, root, NAME)
        assert checkpoint
        return CheckpointReader(store, f"{root}{NAME}/", checkpoint.manifest)

    return open_again


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, sum(SIZES.values())), max_size=4))
def test_any_cut_of_the_tensors_is_read(opened: Opened, cuts: list[int]) -> None:
    reader = opened()
    for parts in split(cuts):
        targets = [Part(part.kind, part.name, part.offset, torch.empty_like(part.values)) for part in parts]
        reader.fill(targets)
        assert all(
            torch.equal(target.values, part.values) for target, part in zip(targets, parts, strict=True)
        )


def test_only_the_needed_blocks_are_read(opened: Opened, s3_proxy: StoreProxy, paths: Paths) -> None:
    store = open_store(StoreAccess(endpoint=s3_proxy.endpoint), "output", paths)
    reader = opened(store)  # type: ignore[call-arg]
    assert reader.names == set(SIZES)
    s3_proxy.requests.clear()
    # Elements 300 to 420 of the first file are the bytes 1200 to 1680: the blocks 2 and 3.
    target = Part("weight", "a", 300, torch.empty(120))
    reader.fill([target])
    assert torch.equal(target.values, WHOLE["a"][300:420])
    assert [request.path.rpartition("/")[2] for request in s3_proxy.requests] == ["00000.safetensors"] * 2


@pytest.mark.usefixtures("hasty")
def test_a_damaged_block_and_a_missing_file_are_refused(opened: Opened, store: Store, bucket: str) -> None:
    uri = f"s3://{bucket}/checkpoints/{NAME}/00001.safetensors"
    content = bytearray(store.read(uri))
    content[-1] ^= 1
    store.write(uri, bytes(content))
    fill = partial(opened().fill, [Part("weight", "c", 0, torch.empty(333))])
    with pytest.raises(UnusableCheckpointError, match="another SHA-256"):
        opened().fill([Part("weight", "a", 900, torch.empty(100)), Part("weight", "b", 0, torch.empty(7))])
    fill()
    store.write(uri, bytes(content[:100]))
    with pytest.raises(UnusableCheckpointError):
        opened().fill([Part("weight", "a", 0, torch.empty(1000))])
    store.delete([uri])
    with pytest.raises(UnusableCheckpointError, match="does not exist"):
        fill = opened().fill([Part("weight", "b", 0, torch.empty(7))])


def test_elements_that_no_file_has_are_refused(opened: Opened) -> None:
    for name, size, kind in (("a", 1001, "weight"), ("d", 1, "weight"), ("a", 1, "exp_avg")):
        with pytest.raises(UnusableCheckpointError, match=f"has no {kind} {name}"):
            opened().fill([Part(kind, name, 0, torch.empty(size))])  # type: ignore[arg-type]
    with pytest.raises(UnusableCheckpointError, match="data type"):
        opened().fill([Part("weight", "a", 0, torch.empty(5, dtype=torch.float64))])


@pytest.mark.usefixtures("hasty")
def test_a_store_that_cannot_be_reached_is_no_damage(
    opened: Opened, s3_proxy: StoreProxy, paths: Paths
) -> None:
    store = open_store(StoreAccess(endpoint=s3_proxy.endpoint), "output", paths)
    reader = opened(store)  # type: ignore[call-arg]
    s3_proxy.suffer("error", "get")
    with pytest.raises(StageFailure, match="StorageError"):
        reader.fill([Part("weight", "a", 0, torch.empty(5))])


def test_the_newest_usable_checkpoint_has_a_manifest_of_this_run_and_its_best_weights(
    store: Store, bucket: str
) -> None:
    root, parts = f"s3://{bucket}/checkpoints/", split([])
    write(store, root, "00000010-1-pod", parts)
    write(store, root, "00000020-1-pod", parts, best="00000010-1-pod")
    write(store, root, "00000030-1-pod", parts, best="00000015-1-pod")
    write(store, root, "00000040-1-pod", parts, identity="sha256:" + "3" * 64)
    write(store, root, "00000050-1-pod", parts)
    store.write(f"{root}00000050-1-pod/manifest.json", b"{}")
    store.write(f"{root}00000060-1-pod/00000.safetensors", b"no manifest")
    store.write(f"{root}other/manifest.json", b"{}")
    found = list(usable(store, root, IDENTITY))
    assert [checkpoint.name for checkpoint in found] == ["00000020-1-pod", "00000010-1-pod"]
    assert [checkpoint.ref.step for checkpoint in found] == [20, 10]


@pytest.mark.usefixtures("hasty")
def test_a_checkpoint_whose_manifest_is_missing_or_corrupt_is_left_out(
    store: Store, bucket: str, s3_proxy: StoreProxy, paths: Paths
) -> None:
    root, parts = f"s3://{bucket}/checkpoints/", split([])
    for step in (10, 20, 30, 40):
        write(store, root, f"{step:08d}-1-pod", parts)
    s3_proxy.suffer("flip", "get", below="00000030-1-pod/manifest.json")
    found = usable(open_store(StoreAccess(endpoint=s3_proxy.endpoint), "output", paths), root, IDENTITY)
    assert next(found).name == "00000040-1-pod"
    store.delete([f"{root}00000020-1-pod/manifest.json"])
    assert [checkpoint.name for checkpoint in found] == ["00000010-1-pod"]
    s3_proxy.suffer("error", "get")
    with pytest.raises(StageFailure, match="StorageError"):
        read_checkpoint(
            open_store(StoreAccess(endpoint=s3_proxy.endpoint), "output", paths), root, "00000010-1-pod"
        )
