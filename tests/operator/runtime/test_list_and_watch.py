import asyncio
from collections.abc import AsyncIterator
from typing import cast

from finetune_operator.objects import Manifest
from finetune_operator.runtime import list_and_watch
from finetune_operator.runtime.api_client import SilentError
from finetune_operator.runtime.cache import Cache
from finetune_operator.runtime.cluster import Cluster, WatchEvent


class QuietCluster:
    """Nothing happens in it: every watch of it is silent until it is broken off."""

    def __init__(self) -> None:
        self.watched = 0
        self.often = asyncio.Event()

    async def list(self, *_: object) -> tuple[list[Manifest], str]:
        return [], "7"

    async def watch(
        self, _kind: str, _namespace: str, _label: str, since: str, _: int
    ) -> AsyncIterator[WatchEvent]:
        assert since == "7"
        self.watched += 1
        if self.watched == 6:
            self.often.set()
            await asyncio.Event().wait()
        raise SilentError("watch jobs: nothing")
        yield


async def test_a_silent_watch_is_begun_again_without_a_pause() -> None:
    cluster = QuietCluster()
    following = asyncio.create_task(
        list_and_watch.list_and_watch(cast("Cluster", cluster), Cache(), "Job", None, lambda _: None)
    )
    try:
        # Back-off would make these five pauses 15 s and more.
        await asyncio.wait_for(cluster.often.wait(), timeout=5)
    finally:
        following.cancel()
