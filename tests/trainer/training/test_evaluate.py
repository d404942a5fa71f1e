"""Ranks as threads, which agree by torch's own group for such: many worlds in no time."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch._C import _distributed_c10d as native
from torch.testing._internal.distributed import multi_threaded_pg as threads

from finetune_trainer.data.shards import Split
from finetune_trainer.failures import StageFailure
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.models.dtypes import Dtypes
from finetune_trainer.tasks.base import Predictions, Tensors
from finetune_trainer.tasks.registry import training_task
from finetune_trainer.training.context import Context
from finetune_trainer.training.distributed import Gang
from finetune_trainer.training.evaluate import over_rows
from tests.trainer.training.contexts import FLOAT32, context_with

CALM: Any = SimpleNamespace(leave_requested=False)
LEAVING: Any = SimpleNamespace(leave_requested=True)
Ranked = Callable[[int, Callable[[Gang], Any]], list[Any]]
Lengths = st.lists(st.integers(1, 9), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def ranked() -> Iterator[Ranked]:
    """Does something on all ranks of a world of this size; what ends one is its result."""

    def on_all(world: int, act: Callable[[Gang], Any]) -> list[Any]:
        store = dist.HashStore()

        def one(rank: int) -> Any:
            dist.init_process_group("threaded", rank=rank, world_size=world, store=store)
            try:
                return act(Gang(rank, rank, world, torch.device("cpu")))
            except StageFailure as failure:
                return failure
            finally:
                dist.destroy_process_group()

        with ThreadPoolExecutor(world) as pool:
            return list(pool.map(one, range(world), timeout=60))

    native._set_thread_isolation_mode(True)
    threads._install_threaded_pg()
    yield on_all
    threads._uninstall_threaded_pg()
    native._set_thread_isolation_mode(False)


def rows(counts: list[int]) -> Split:
    """Every token of a row is the row's number."""
    numbers = np.arange(len(counts))
    return Split(
        tokens=np.repeat(numbers, counts).astype(np.int32),
        offsets=np.cumsum([0, *counts]).astype(np.int64),
        labels=np.zeros(len(counts), dtype=np.int32),
        rows=numbers + 1,
        loss_mask=np.zeros(sum(counts), dtype=np.bool_),
    )


def context(
    gang: Gang,
    at_once: int,
    heartbeat: Heartbeat = CALM,
    dtypes: Dtypes = FLOAT32,
    *,
    tokens: bool = False,
) -> Context:
    """What is asked of a run here; it takes twice the micro-batch at once, in rows or in tokens."""
    return context_with(
        task=training_task("TextClassification"),
        chosen=SimpleNamespace(
            micro_batch_size=None if tokens else at_once // 2,
            micro_batch_tokens=at_once // 2 if tokens else None,
        ),
        heartbeat=heartbeat,
        gang=gang,
        pad_id=0,
        dtypes=dtypes,
    )


class Model:
    """Answers with number and length of each row, and remembers what it was asked."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.passes: list[list[int]] = []
        self.dtype = dtype

    def __call__(self, inputs: Tensors) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        numbers = inputs["input_ids"][:, 0]
        self.passes.append(numbers.tolist())
        return torch.stack([numbers, inputs["attention_mask"].sum(1)], 1).to(self.dtype)


def asked(gang: Gang, split: Split, at_once: int) -> tuple[Predictions, list[list[int]], list[float]]:
    model, shares = Model(), []
    found = over_rows(context(gang, at_once), model, split, shares.append)
    return found, model.passes, shares


@given(counts=Lengths, world=st.integers(1, 4), micro_batch=st.integers(1, 5))
def test_every_rank_has_all_answers_in_order_after_equally_many_passes(
    ranked: Ranked, counts: list[int], world: int, micro_batch: int
) -> None:
    split, at_once = rows(counts), 2 * micro_batch
    ends = ranked(world, partial(asked, split=split, at_once=at_once))
    batches = -(-len(counts) // at_once)
    rounds = -(-batches // world)
    for found, passes, shares in ends:
        assert found.tolist() == [[number, count] for number, count in enumerate(counts)]
        assert found.dtype == np.float32
        assert len(passes) == rounds
        assert shares == [(turn + 1) / rounds for turn in range(rounds)]
    in_turn = [ends[turn % world][1][turn // world] for turn in range(batches)]
    assert sorted(number for batch in in_turn for number in batch) == list(range(len(counts)))
    assert {len(batch) for batch in in_turn[:-1]} <= {at_once}
    spoken = [counts[number] for batch in in_turn for number in batch]
    assert spoken == sorted(counts, reverse=True)
    idle = [ends[turn % world][1][turn // world] for turn in range(batches, rounds * world)]
    assert all(batch == in_turn[-1] for batch in idle)


@given(counts=Lengths, world=st.integers(1, 4), budget=st.integers(1, 12))
def test_a_pass_of_an_evaluation_has_at_most_twice_the_tokens_of_a_micro_batch(
    ranked: Ranked, counts: list[int], world: int, budget: int
) -> None:
    split, models = rows(counts), [Model() for _ in range(world)]

    def act(gang: Gang) -> Any:
        run = context(gang, 2 * budget, tokens=True)
        return over_rows(run, models[gang.rank], split, lambda _: None).tolist()

    assert ranked(world, act) == [[[number, count] for number, count in enumerate(counts)]] * world
    for batch in (batch for model in models for batch in model.passes):
        assert len(batch) == 1 or len(batch) * max(counts[number] for number in batch) <= 2 * budget
    assert len({len(model.passes) for model in models}) == 1


def test_a_rank_that_never_has_work_learns_the_answers_too(ranked: Ranked) -> None:
    ends = ranked(3, partial(asked, split=rows([5]), at_once=2))
    assert [found.tolist() for found, _, _ in ends] == [[[0, 5]]] * 3
    assert [passes for _, passes, _ in ends] == [[[0]]] * 3


def test_float64_stays_float64(ranked: Ranked) -> None:
    split = rows([1, 2, 3])

    def exact(gang: Gang) -> Any:
        return over_rows(context(gang, 2), Model(torch.float64), split, lambda _: None)

    assert [found.dtype for found in ranked(3, exact)] == [np.float64] * 3


@pytest.mark.parametrize(
    ("dtypes", "product_dtype", "autocast"),
    [
        (FLOAT32, torch.float32, False),
        (Dtypes("float32", "bfloat16", "float32"), torch.bfloat16, True),
        (Dtypes("bfloat16", "bfloat16", "bfloat16"), torch.bfloat16, False),
    ],
)
def test_rows_are_evaluated_with_the_data_types_of_the_run(
    ranked: Ranked, dtypes: Dtypes, product_dtype: torch.dtype, autocast: bool
) -> None:
    def act(gang: Gang) -> Any:
        computed = []
        run = context(gang, 2, dtypes=dtypes)

        def multiply(inputs: Tensors) -> torch.Tensor:
            product = torch.ones(len(inputs["input_ids"]), 2, dtype=run.weights_dtype) @ torch.ones(
                2, 2, dtype=run.weights_dtype
            )
            computed.append((product.dtype, torch.is_autocast_enabled("cpu")))
            return product.float()

        over_rows(run, multiply, rows([1, 2]), lambda _: None)
        return computed

    assert ranked(1, act) == [[(product_dtype, autocast)]]


@pytest.mark.parametrize(("rounds", "passes"), [(7, 7), (8, 8), (9, 8), (20, 8)], ids=["7", "8", "9", "20"])
@pytest.mark.parametrize("asked", [0, 2])
def test_all_leave_after_eight_rounds_when_one_is_asked_to(
    ranked: Ranked, rounds: int, passes: int, asked: int
) -> None:
    models = [Model() for _ in range(3)]
    split = rows([1] * (2 * 3 * rounds))

    def act(gang: Gang) -> Any:
        heartbeat = LEAVING if gang.rank == asked else CALM
        return over_rows(context(gang, 2, heartbeat), models[gang.rank], split, lambda _: None)

    ends = ranked(3, act)
    assert [len(model.passes) for model in models] == [passes] * 3
    assert [getattr(end, "reason", "none") for end in ends] == ["Preempted" if rounds >= 8 else "none"] * 3
