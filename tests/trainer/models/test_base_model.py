import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.config import TrainConfig
from finetune_trainer.contract import Chosen
from finetune_trainer.data.shards import Prepared
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import base_model
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store

CHOSEN = Chosen(
    epochs=1,
    batch_size=8,
    micro_batch_size=8,
    accumulation_steps=1,
    world_size=1,
    learning_rate=0.01,
    max_length=16,
    zero_stage=0,
    total_steps=13,
)


@pytest.fixture
def config(given_run: Callable[..., TrainConfig], tiny_base: Path, learnable: Prepared) -> TrainConfig:
    return given_run(tiny_base, learnable, CHOSEN)


def test_a_spoilt_cache_is_fetched_again_and_a_whole_one_is_not(
    config: TrainConfig, paths: Paths, store: Store
) -> None:
    folder, digest = base_model.fetch(config, paths)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert base_model.fetch(config, paths) == (folder, digest)
    assert weights.read_bytes() == whole
    store.delete([f"{config.run.model.uri}/model.safetensors"])
    assert base_model.fetch(config, paths) == (folder, digest)


def test_bytes_that_move_or_are_checked_are_reported(config: TrainConfig, paths: Paths) -> None:
    fetched: list[int] = []
    checked: list[int] = []

    folder, _ = base_model.fetch(config, paths, fetched.append)
    base_model.fetch(config, paths, checked.append)

    size = sum(path.stat().st_size for path in folder.iterdir())
    assert sum(fetched) == sum(checked) == size


def test_the_wait_for_another_process_of_the_node_is_reported(config: TrainConfig, paths: Paths) -> None:
    folder, _ = base_model.fetch(config, paths)
    lock = (folder.parent / f"{folder.name}.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    reported: list[int] = []

    def on_bytes(count: int) -> None:
        reported.append(count)
        lock.close()

    assert base_model.fetch(config, paths, on_bytes)[0] == folder
    assert reported[0] == 0


def test_a_model_that_changed_since_prepare_is_refused(
    config: TrainConfig, paths: Paths, store: Store
) -> None:
    store.write(f"{config.run.model.uri}/config.json", b'{"model_type": "bert"}')
    with pytest.raises(StageFailure, match="ModelChanged"):
        base_model.fetch(config, paths)


def test_only_json_and_safetensors_are_read() -> None:
    names = frozenset(
        {
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "pytorch_model.bin",
            "modeling.py",
            "README.md",
        }
    )
    assert base_model.list_model_files(names, None, "s3://b/m/") == (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    )
