import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.lines import FileSpan, Line, locate


@given(st.lists(st.integers(0, 5), min_size=1))
def test_every_row_is_found_again_also_beside_files_without_rows(lengths: list[int]) -> None:
    spans, written = [], []
    for file, length in enumerate(lengths):
        spans.append(FileSpan(file=str(file), before=len(written)))
        written += [(str(file), line) for line in range(1, length + 1)]
    assert [locate(number, spans) for number in range(1, len(written) + 1)] == written


def test_a_line_is_a_number_to_programs_and_a_place_to_people() -> None:
    line = Line.of(5, [FileSpan(file="a.csv", before=0), FileSpan(file="b.csv", before=3)])
    assert f"{line}" == str(line) == "b.csv:2"
    assert line == 5
    assert json.dumps([line]) == "[5]"
    assert np.array([line], dtype=np.int64).tolist() == [5]
