"""The micro-batch of the next Train attempt."""

import pytest

from finetune_operator.planning import micro_batch
from finetune_operator.planning.stages import choose_for_train
from finetune_trainer.contract import Chosen
from tests.operator import scenes

TOKENS = scenes.CHOSEN.model_copy(
    update={"micro_batch_size": None, "accumulation_steps": None, "micro_batch_tokens": 1024}
)
"""A budget for rows of at most 64 tokens."""


@pytest.mark.parametrize(
    ("tokens", "halves"), [(1024, [512, 256, 128, 64]), (100, [64]), (65, [64]), (64, [])]
)
def test_a_budget_is_halved_until_it_holds_one_row(tokens: int, halves: list[int]) -> None:
    chosen: Chosen | None = TOKENS.model_copy(update={"micro_batch_tokens": tokens})
    found = []
    while chosen := micro_batch.halve(chosen):
        assert (chosen.batch_size, chosen.micro_batch_size) == (32, None)
        found.append(chosen.micro_batch_tokens)
    assert found == halves


def test_a_number_of_rows_is_halved_while_it_is_even() -> None:
    first = micro_batch.halve(scenes.CHOSEN)
    assert first
    assert (first.batch_size, first.micro_batch_size, first.accumulation_steps) == (32, 4, 4)
    assert micro_batch.halve(scenes.CHOSEN.model_copy(update={"micro_batch_size": 3})) is None


@pytest.mark.parametrize("chosen", [TOKENS, scenes.CHOSEN])
def test_the_attempt_after_out_of_memory_has_half_the_micro_batch_and_so_have_all_later_ones(
    chosen: Chosen,
) -> None:
    failed = {"stage": "Train", "outcome": "Failed", "class": "OutOfMemory", "reason": "R", "message": "m"}
    job = scenes.job_of({"status": {"reached": "Prepare", "attempts": [failed]}})
    assert job.status
    run = scenes.asked_of(job, scenes.settings())
    status = job.status.model_copy(update={"chosen": chosen})
    halved = choose_for_train(status, run)
    assert halved == micro_batch.halve(chosen)
    (attempt,) = status.attempts
    assert halved
    fields = micro_batch.differing_micro_batch(halved, chosen)
    lost = attempt.model_copy(update={"failure": "Communication", "number": 2, **fields})
    later = status.model_copy(update={"attempts": [attempt, lost]})
    assert choose_for_train(later, run) == halved


def test_only_another_micro_batch_than_that_of_prepare_is_noted() -> None:
    assert micro_batch.differing_micro_batch(TOKENS, TOKENS) == {}
