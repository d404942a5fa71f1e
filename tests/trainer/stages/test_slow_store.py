"""Stages with a slow store: transfers, and waits for transfers, update the heartbeat of a rank."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_trainer.config import StoreAccess, TrainConfig
from finetune_trainer.contract import Activity, RankFile
from finetune_trainer.data.shards import Prepared
from finetune_trainer.paths import Paths
from finetune_trainer.stages import prepare, publish
from tests.trainer.forks import Forked
from tests.trainer.stages import test_prepare, test_publish
from tests.trainer.stages.test_prepare import Job
from tests.trainer.stages.test_train import chosen_for, rank_file, start_ranks
from tests.trainer.storeproxy import StoreProxy

job = test_prepare.job
stage, staged = test_publish.stage, test_publish.staged

HANG_SECONDS = 10
PATIENCE = 300
"""Seconds until a test gives up."""


@pytest.fixture
def access(s3_proxy: StoreProxy) -> StoreAccess:
    """The store as the stages reach it here: through the proxy."""
    return StoreAccess(endpoint=s3_proxy.endpoint)


class Listening:
    """A heartbeat that keeps the activities of the beats that say nothing but the activity."""

    leave_requested = False

    def __init__(self) -> None:
        self.alive: set[Activity] = set()
        self.activities: set[Activity] = set()

    def beat(self, activity: Activity, **fields: object) -> None:
        self.activities.add(activity)
        if fields.keys() <= {"quiet_seconds"}:
            self.alive.add(activity)


def test_every_transfer_of_prepare_is_a_sign_of_life(job: Job) -> None:
    heartbeat = Listening()
    prepare.run(job.config(), job.paths, heartbeat)
    assert heartbeat.alive >= {Activity.CHECKING_STORE, Activity.CHECKING_MODEL}
    assert Activity.UPLOADING in heartbeat.activities, "bytes of shards beat through the pace of the pass"


def test_every_transfer_of_publish_is_a_sign_of_life(staged: TrainConfig, paths: Paths) -> None:
    heartbeat = Listening()
    publish.run(staged, paths, heartbeat)
    assert heartbeat.alive >= {Activity.LOADING, Activity.UPLOADING}


@pytest.fixture
def ranks_of(paths: Paths) -> Iterator[Callable[[TrainConfig], Forked]]:
    """Starts the ranks of a pod; they end with the test."""
    started: list[Forked] = []

    def start(config: TrainConfig) -> Forked:
        started.append(start_ranks(config, paths, "pod-one-"))
        return started[-1]

    yield start
    for process in started:
        process.end()


def test_a_rank_that_waits_for_a_download_longer_than_a_collective_may_last_lives_on(
    given_run: Callable[..., TrainConfig],
    ranks_of: Callable[[TrainConfig], Forked],
    tiny_base: Path,
    learnable: Prepared,
    paths: Paths,
    s3_proxy: StoreProxy,
) -> None:
    config = given_run(tiny_base, learnable, chosen_for(learnable))
    s3_proxy.suffer("pause", "get", below="model.safetensors")
    process = ranks_of(config.model_copy(update={"hang_timeout_seconds": HANG_SECONDS}))

    def told(rank: int) -> Any:
        try:
            return rank_file(paths, rank)
        except FileNotFoundError:
            return SimpleNamespace(activity=Activity.STARTING, heartbeat=0.0, ended=None)

    def until(is_so: Callable[[RankFile], bool]) -> RankFile:
        end = time.monotonic() + PATIENCE
        while not is_so(file := told(1)):
            assert process.poll() is None, process.errors.read_text()[-3000:]
            assert time.monotonic() < end, file
            time.sleep(0.05)
        return file

    began = until(lambda file: file.activity is Activity.LOADING).heartbeat
    waited = until(lambda file: file.heartbeat > began + HANG_SECONDS + 2 or file.ended is not None)
    assert (waited.activity, waited.ended) == (Activity.LOADING, None)
    s3_proxy.resume()
    assert until(lambda file: file.activity is not Activity.LOADING).ended is None
