from dataclasses import fields

import numpy as np
import pytest
import torch

from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.models.collate import lengths, pad_batch, select_rows

PAD = 49


def rows_of(split: Split) -> list[list[int]]:
    return [split.row(number).tolist() for number in range(len(split))]


def test_rows_are_padded_to_the_longest_row_and_the_mask_excludes_padding(learnable: Prepared) -> None:
    split = learnable.test
    by_length = np.argsort(lengths(split), kind="stable")
    for numbers in ([by_length[-1], 7, by_length[0], 7], [by_length[0]], range(len(split))):
        made = pad_batch(split, list(numbers), PAD)
        ids, mask = made["input_ids"], made["attention_mask"]
        longest = max(len(split.row(number)) for number in numbers)
        assert ids.shape == mask.shape == (len(numbers), longest)
        assert (ids.dtype, mask.dtype) == (torch.int64, torch.int64)
        for place, number in enumerate(numbers):
            row = split.row(number).tolist()
            assert ids[place].tolist() == row + [PAD] * (longest - len(row))
            assert mask[place].tolist() == [1] * len(row) + [0] * (longest - len(row))


def test_a_padding_token_inside_a_row_is_not_masked(learnable: Prepared) -> None:
    split = select_rows(learnable.test, np.array([0, 1]))
    split.tokens[:] = PAD
    made = pad_batch(split, [0, 1], PAD)
    assert made["attention_mask"].sum(1).tolist() == lengths(split).tolist()


def test_a_filler_is_a_row_of_one_token(learnable: Prepared) -> None:
    split = learnable.train
    made = pad_batch(split, [FILLER, 5, FILLER], PAD)
    assert made["attention_mask"].sum(1).tolist() == [1, lengths(split)[5], 1]
    assert pad_batch(split, [FILLER], PAD)["input_ids"].shape == (1, 1)


@pytest.mark.parametrize("numbers", [[3, 1, 1, 40], [40], list(range(41))[::-1]])
def test_a_subset_has_the_selected_rows_in_order(learnable: Prepared, numbers: list[int]) -> None:
    whole = learnable.test
    whole.loss_mask[::3] = True
    part = select_rows(whole, np.array(numbers))
    assert rows_of(part) == [whole.row(number).tolist() for number in numbers]
    assert part.labels.tolist() == whole.labels[numbers].tolist()
    assert part.rows.tolist() == whole.rows[numbers].tolist()
    assert lengths(part).tolist() == lengths(whole)[numbers].tolist()
    spans = [slice(whole.offsets[number], whole.offsets[number + 1]) for number in numbers]
    assert part.loss_mask.tolist() == [flag for span in spans for flag in whole.loss_mask[span].tolist()]
    for kept in fields(Split):
        before, after = getattr(whole, kept.name), getattr(part, kept.name)
        assert type(after) is type(before)
        assert getattr(after, "dtype", None) == getattr(before, "dtype", None), kept.name


def test_a_subset_of_all_rows_is_equal_to_the_split(learnable: Prepared) -> None:
    part = select_rows(learnable.train, np.arange(len(learnable.train)))
    for kept in ("tokens", "offsets", "labels", "rows", "loss_mask"):
        assert np.array_equal(getattr(part, kept), getattr(learnable.train, kept))
