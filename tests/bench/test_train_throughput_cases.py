"""The rows that all sides of the benchmark train on."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.train_throughput.cases import as_split
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.lines import FileSpan, Line
from finetune_trainer.tasks.text_classification.data import LabelledText


@given(st.lists(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), max_size=6), max_size=6))
def test_every_row_of_a_split_is_as_it_was_encoded(made: list[list[tuple[int, bool]]]) -> None:
    encoded = [
        Encoding(
            np.array([number for number, _ in row], dtype=np.int32),
            np.array([loss_mask for _, loss_mask in row], dtype=np.bool_),
        )
        for row in made
    ]
    spans = [FileSpan(file="a.csv", before=0), FileSpan(file="b.csv", before=2)]
    examples = [LabelledText(Line.of(number + 1, spans), "", "") for number in range(len(made))]
    labels = np.arange(len(made), dtype=np.int32)
    split = as_split(examples, encoded, labels, spans)
    assert len(split) == len(made)
    for number, row in enumerate(encoded):
        span = slice(split.offsets[number], split.offsets[number + 1])
        assert split.row(number).tolist() == row.ids.tolist()
        assert row.loss_mask is not None
        assert split.loss_mask[span].tolist() == row.loss_mask.tolist()
    assert (
        split.locations() == [("a.csv", 1), ("a.csv", 2), *(("b.csv", n) for n in range(1, 5))][: len(made)]
    )
    assert (split.tokens.dtype, split.offsets.dtype, split.rows.dtype, split.loss_mask.dtype) == (
        *map(np.dtype, (np.int32, np.int64, np.int64, np.bool_)),
    )


def test_where_no_tokens_are_learnt_none_of_a_split_is() -> None:
    row = Encoding(np.array([4, 5], dtype=np.int32))
    split = as_split(
        [LabelledText(1, "", "")], [row], np.zeros(1, dtype=np.int32), [FileSpan(file="", before=0)]
    )
    assert split.loss_mask.tolist() == [False, False]
