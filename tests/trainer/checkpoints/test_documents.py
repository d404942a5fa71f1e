from typing import Any

import pytest

from finetune_trainer.checkpoints.documents import identity_of
from finetune_trainer.config import EvaluationSpec, Run, Training, World
from finetune_trainer.contract import Chosen
from tests.trainer.runs import CLASSIFICATION

CHOSEN = Chosen(
    epochs=3, batch_size=8, micro_batch_size=2, accumulation_steps=2, world_size=2, learning_rate=0.01,
    max_length=16, zero_stage=2, total_steps=39,
)  # fmt: skip
DATA, BASE = "sha256:" + "1" * 64, "sha256:" + "2" * 64
IDENTITY = identity_of(CLASSIFICATION, CHOSEN, DATA, BASE)


@pytest.mark.parametrize(
    ("run", "chosen"),
    [
        ({"world": World(nodes=2, gpus_per_node=8)}, {"world_size": 16}),
        ({"zero_stage": 3, "offload": "Optimizer"}, {"zero_stage": 3, "offload": "Optimizer"}),
        ({"training": Training(micro_batch_size=1)}, {"micro_batch_size": 1, "accumulation_steps": 4}),
        ({}, {"micro_batch_size": None, "accumulation_steps": None, "micro_batch_tokens": 512}),
        ({"training": Training(activation_checkpointing="Enabled")}, {"activation_checkpointing": True}),
        ({}, {"gathered_parameters": 500}),
    ],
)
def test_a_run_resumes_at_another_world_size_stage_or_micro_batch(
    run: dict[str, Any], chosen: dict[str, Any]
) -> None:
    other = identity_of(CLASSIFICATION.model_copy(update=run), CHOSEN.model_copy(update=chosen), DATA, BASE)
    assert other == IDENTITY


@pytest.mark.parametrize(
    ("run", "chosen"),
    [
        ({"training": Training(seed=1)}, {}),
        ({"training": Training(schedule="Cosine")}, {}),
        ({"method": {"kind": "FreezeLayers", "train_last": 1}}, {}),
        ({"evaluation": EvaluationSpec(metrics=("macroF1", "mcc"), primary_metric="mcc")}, {}),
        ({}, {"batch_size": 16}),
        ({}, {"epochs": 4, "total_steps": 52}),
        ({}, {"learning_rate": 0.02}),
    ],
)
def test_a_run_does_not_resume_when_its_result_would_differ(
    run: dict[str, Any], chosen: dict[str, Any]
) -> None:
    changed = Run.model_validate({**CLASSIFICATION.model_dump(), **run})
    assert identity_of(changed, CHOSEN.model_copy(update=chosen), DATA, BASE) != IDENTITY


def test_a_run_does_not_resume_with_other_data_or_another_base_model() -> None:
    assert identity_of(CLASSIFICATION, CHOSEN, BASE, BASE) != IDENTITY
    assert identity_of(CLASSIFICATION, CHOSEN, DATA, DATA) != IDENTITY
