import json

import pytest

from finetune_trainer.config import Training
from finetune_trainer.contract import Chosen, Offload
from finetune_trainer.models.dtypes import Dtypes
from finetune_trainer.training.deepspeed_config import deepspeed_config, engine_clip, own_clip
from tests.trainer.training.contexts import FLOAT32


def chosen(stage: int, offload: Offload = "None") -> Chosen:
    return Chosen(
        epochs=1,
        batch_size=32,
        micro_batch_size=4,
        accumulation_steps=4,
        world_size=2,
        learning_rate=5e-5,
        max_length=48,
        zero_stage=stage,
        total_steps=10,
        offload=offload,
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_config_has_no_auto_and_a_consistent_batch_size(stage: int) -> None:
    config = deepspeed_config(chosen(stage), Training(), FLOAT32)
    assert '"auto"' not in json.dumps(config)
    assert config["zero_optimization"]["stage"] == stage
    assert config["train_micro_batch_size_per_gpu"] == config["gradient_accumulation_steps"] == 1
    assert config["train_batch_size"] == 2


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_either_deepspeed_or_the_loop_clips_gradients(stage: int) -> None:
    assert {engine_clip(stage, 0.7), own_clip(stage, 0.7)} == {0.0, 0.7}
    assert (own_clip(stage, 0.7) > 0) == (stage == 0)
    assert deepspeed_config(chosen(stage), Training(max_gradient_norm=0.7), FLOAT32)[
        "gradient_clipping"
    ] == engine_clip(stage, 0.7)


def test_bfloat16_products_use_autocast_with_float32_weights() -> None:
    dtypes = Dtypes("float32", "bfloat16", "float32")
    config = deepspeed_config(chosen(2), Training(), dtypes)
    assert config["torch_autocast"]["enabled"]
    assert not config["bf16"]["enabled"]
    assert not config["fp16"]["enabled"]


def test_bfloat16_weights_have_float32_gradients_and_no_autocast() -> None:
    config = deepspeed_config(chosen(2), Training(), Dtypes("bfloat16", "bfloat16", "bfloat16"))
    assert config["bf16"] == {"enabled": True}
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert config["communication_data_type"] == "fp32"
    assert not config["torch_autocast"]["enabled"]
    assert not config["fp16"]["enabled"]


def test_offloaded_state_is_in_the_memory_of_the_host() -> None:
    def offloaded(offload: Offload) -> dict[str, str]:
        zero = deepspeed_config(chosen(3, offload), Training(), FLOAT32)["zero_optimization"]
        return {name: place["device"] for name, place in zero.items() if name.startswith("offload")}

    assert offloaded("None") == {}
    assert offloaded("Optimizer") == {"offload_optimizer": "cpu"}
    assert offloaded("OptimizerAndParameters") == {"offload_optimizer": "cpu", "offload_param": "cpu"}
