import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.training.batches import FILLER
from finetune_trainer.training.inputs import work_of
from finetune_trainer.training.packing import Packing
from tests.trainer.programs.truth import trained_rows

NARROW = Packing.of(hidden=128, layers=4, vocabulary=2048)
SEVEN_BILLION = Packing.of(hidden=4096, layers=32, vocabulary=32000)
Lengths = st.lists(st.integers(1, 4000), min_size=1, max_size=32).map(np.array)


def test_the_costs_of_llama_7b_are_those_of_its_sizes() -> None:
    assert pytest.approx(1 / 24576) == SEVEN_BILLION.pair
    assert pytest.approx(32000 / (12 * 32 * 4096)) == SEVEN_BILLION.head


@pytest.mark.parametrize(
    ("packing", "lengths", "learnt", "pays"),
    [
        (SEVEN_BILLION, [2000, 100, 100, 100], 2300, True),
        (SEVEN_BILLION, [500] * 8, 4000, False),
        (SEVEN_BILLION, [50] * 4, 8, True),
        (NARROW, [120, 130, 140, 150] * 4, 2160, False),
        (NARROW, [300, 10, 10, 10], 20, True),
    ],
    ids=["uneven", "even", "even, few logits", "pairs are the work", "narrow and uneven"],
)
def test_it_pays_where_padding_and_logits_are_more_work_than_the_pairs(
    packing: Packing, lengths: list[int], learnt: int, *, pays: bool
) -> None:
    assert packing.pays(np.array(lengths), learnt) is pays


@given(Lengths)
def test_without_a_cost_of_pairs_it_always_pays(lengths: np.ndarray) -> None:
    assert Packing(pair=0, head=0.5).pays(lengths, int(lengths.sum()))


@given(Lengths, st.integers(64, 8192))
def test_where_it_pays_it_pays_for_a_wider_model_too(lengths: np.ndarray, hidden: int) -> None:
    some, wider = (Packing.of(hidden=size, layers=8, vocabulary=0) for size in (hidden, 2 * hidden))
    assert wider.pays(lengths, 0) or not some.pays(lengths, 0)


def test_of_some_rows_the_tokens_and_those_that_are_learnt() -> None:
    rows = trained_rows()
    tokens, learnt = work_of(rows, [3, FILLER, 5])
    spans = [slice(rows.offsets[n], rows.offsets[n + 1]) for n in (3, 5)]
    assert tokens.tolist() == [*(span.stop - span.start for span in spans), 1]
    assert learnt == sum(rows.trained[span].sum() for span in spans)
