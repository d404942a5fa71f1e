"""IO: reads parts of tensors from a checkpoint of any world size; only the needed blocks, each verified."""

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from finetune_trainer.checkpoints.documents import CheckpointManifest, ShardFile, UnusableCheckpointError
from finetune_trainer.checkpoints.files import Part, Span, read_header, view_bytes
from finetune_trainer.contract import Digest
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.store import Store

_PARALLEL = 4
DAMAGED = frozenset({"ObjectCorrupt", "ObjectMissing", "ObjectChanged"})
"""Reasons of a failed reading that belong to the checkpoint, not to the store."""


@dataclass(frozen=True)
class _Copy:
    """Bytes of a file that belong to a part."""

    shard: int
    start: int
    """Offset of the first byte in the data of the file."""
    target: memoryview


class CheckpointReader:
    """Reads one checkpoint.

    Args:
        store: the output store.
        folder: URI of the checkpoint, with a slash at the end.
        manifest: its manifest.
        on_bytes: receives the number of bytes of each reading; called by several threads.
    """

    def __init__(
        self, store: Store, folder: str, manifest: CheckpointManifest, on_bytes: OnBytes = ignore_bytes
    ) -> None:
        self._store, self._folder, self._manifest, self._on_bytes = store, folder, manifest, on_bytes

    def fill(self, parts: Sequence[Part], shard: int | None = None) -> None:
        """Reads the values of parts into their tensors.

        Args:
            parts: parts on the CPU with contiguous values; the bounds of the parts need not be those of the
                parts in the files.
            shard: reads only the file of this rank; None for all files.

        Raises:
            UnusableCheckpointError: the checkpoint is damaged, or does not have these parts.
            StageFailure: a failure of the store.
        """
        self._read([copy for part in parts for copy in self._copies(part, shard)])

    @property
    def names(self) -> set[str]:
        """The names of all tensors of the checkpoint.

        Raises:
            UnusableCheckpointError: the checkpoint is damaged.
            StageFailure: a failure of the store.
        """
        return {name for _, name in self._index}

    @cached_property
    def _index(self) -> dict[tuple[str, str], list[tuple[int, Span]]]:
        """Kind and name of a tensor -> its places in the files, in the order of offsets."""
        index: dict[tuple[str, str], list[tuple[int, Span]]] = defaultdict(list)
        with ThreadPoolExecutor(_PARALLEL) as pool:
            headers = list(pool.map(self._header, self._manifest.shards))
        for number, spans in enumerate(headers):
            for span in spans:
                index[span.kind, span.name].append((number, span))
        for places in index.values():
            places.sort(key=lambda place: place[1].offset)
        return dict(index)

    def _header(self, shard: ShardFile) -> list[Span]:
        uri = self._folder + shard.path
        return read_header(self._verified(uri, 0, shard.header_bytes, shard.digests[0]))

    def _copies(self, part: Part, shard: int | None) -> Iterator[_Copy]:
        """The places of a part in the files.

        Raises:
            UnusableCheckpointError: some elements are in no file.
        """
        places = self._index.get((part.kind, part.name), [])
        if shard is not None:
            places = [place for place in places if place[0] == shard]
        size = part.values.element_size()
        target = view_bytes(part.values)
        position, end = part.offset, part.offset + part.values.numel()
        first = max(0, bisect_left(places, position + 1, key=lambda place: place[1].offset) - 1)
        for number, span in places[first:]:
            stop = min(end, span.offset + span.elements)
            if position >= end or span.offset > position:
                break
            if stop <= position:
                continue
            if span.dtype != part.values.dtype:
                raise UnusableCheckpointError(f"{part.name} has the data type {span.dtype} in {self._folder}")
            into = target[(position - part.offset) * size : (stop - part.offset) * size]
            yield _Copy(number, span.start + (position - span.offset) * size, into)
            position = stop
        if position < end:
            raise UnusableCheckpointError(f"{self._folder} has no {part.kind} {part.name} from {position}")

    def _read(self, copies: Sequence[_Copy]) -> None:
        block_bytes = self._manifest.block_bytes
        needed: dict[tuple[int, int], list[_Copy]] = defaultdict(list)
        for copy in copies:
            last = copy.start + len(copy.target) - 1
            for block in range(copy.start // block_bytes, last // block_bytes + 1):
                needed[copy.shard, block].append(copy)
        waiting = deque(sorted(needed))
        with ThreadPoolExecutor(_PARALLEL) as pool:
            ahead: deque[tuple[int, int, Future[bytes]]] = deque()
            try:
                while waiting or ahead:
                    while waiting and len(ahead) < _PARALLEL:
                        shard, block = waiting.popleft()
                        ahead.append((shard, block, pool.submit(self._block, shard, block)))
                    shard, block, future = ahead.popleft()
                    content, begin = future.result(), block * block_bytes
                    for copy in needed[shard, block]:
                        _paste(copy, content, begin)
            finally:
                for *_, future in ahead:
                    future.cancel()

    def _block(self, number: int, block: int) -> bytes:
        shard, size = self._manifest.shards[number], self._manifest.block_bytes
        start = block * size
        return self._verified(
            self._folder + shard.path,
            shard.header_bytes + start,
            min(size, shard.data_bytes - start),
            shard.digests[1 + block],
        )

    def _verified(self, uri: str, start: int, length: int, digest: Digest) -> bytes:
        try:
            return self._store.read_verified(uri, start, length, digest, self._on_bytes)
        except StageFailure as failure:
            if failure.reason in DAMAGED:
                raise UnusableCheckpointError(failure.message) from failure
            raise


def _paste(copy: _Copy, content: bytes, begin: int) -> None:
    """Copies the bytes of a block that belong to a part.

    Args:
        copy: the part.
        content: the block.
        begin: offset of the block in the data of the file.
    """
    start = max(copy.start, begin)
    stop = min(copy.start + len(copy.target), begin + len(content))
    copy.target[start - copy.start : stop - copy.start] = content[start - begin : stop - begin]
