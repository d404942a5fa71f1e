import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.batches import FILLER
from finetune_trainer.models.collate import measure_work
from finetune_trainer.models.packing import Packing, Work
from tests.trainer.programs.truth import trained_rows

NARROW = Packing.of(hidden=128, layers=4, vocabulary=2048)
SEVEN_BILLION = Packing.of(hidden=4096, layers=32, vocabulary=32000)
Lengths = st.lists(st.integers(1, 4000), min_size=1, max_size=32).map(np.array)


def test_the_costs_of_llama_7b_follow_from_its_sizes() -> None:
    assert pytest.approx(1 / 24576) == SEVEN_BILLION.pair
    assert pytest.approx(32000 / (12 * 32 * 4096)) == SEVEN_BILLION.head


def work(lengths: list[int], loss_mask: int, first: int = 0) -> Work:
    return Work(np.array(lengths), loss_mask, first)


@pytest.mark.parametrize(
    ("packing", "work", "pays"),
    [
        (SEVEN_BILLION, work([2000, 100, 100, 100], 2300), True),
        (SEVEN_BILLION, work([500] * 8, 4000), False),
        (SEVEN_BILLION, work([50] * 4, 8), True),
        (SEVEN_BILLION, work([50] * 4, 8, first=48), False),
        (NARROW, work([120, 130, 140, 150] * 4, 2160), False),
        (NARROW, work([300, 10, 10, 10], 20), True),
    ],
    ids=["uneven", "even", "few logits", "few logits at the end", "pairs are the work", "narrow and uneven"],
)
def test_packing_pays_if_padding_and_logits_cost_more_than_pairs(
    packing: Packing, work: Work, *, pays: bool
) -> None:
    assert packing.pays(work) is pays


@given(Lengths)
def test_packing_always_pays_without_a_cost_of_pairs(lengths: np.ndarray) -> None:
    assert Packing(pair=0, head=0.5).pays(Work(lengths, int(lengths.sum()), 0))


@given(Lengths, st.integers(64, 8192))
def test_packing_that_pays_for_a_model_pays_for_a_wider_model(lengths: np.ndarray, hidden: int) -> None:
    some, wider = (Packing.of(hidden=size, layers=8, vocabulary=0) for size in (hidden, 2 * hidden))
    assert wider.pays(Work(lengths, 0, 0)) or not some.pays(Work(lengths, 0, 0))


def test_work_counts_the_tokens_and_the_learnt_tokens_of_rows() -> None:
    rows = trained_rows()
    found = measure_work(rows, [3, FILLER, 5])
    spans = [slice(rows.offsets[n], rows.offsets[n + 1]) for n in (3, 5)]
    assert found.lengths.tolist() == [*(span.stop - span.start for span in spans), 1]
    assert found.loss_tokens == sum(rows.loss_mask[span].sum() for span in spans)
    assert found.first == min(int(rows.loss_mask[span].argmax()) for span in spans) - 1


def test_a_filler_has_one_position_and_no_learnt_token() -> None:
    found = measure_work(trained_rows(), [FILLER, FILLER])
    assert (found.lengths.tolist(), found.loss_tokens, found.first) == ([1, 1], 0, 0)
