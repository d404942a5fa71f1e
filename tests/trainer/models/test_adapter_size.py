"""Rank and alpha of published adapters, and the adapters that servers do not load."""

import pytest

from finetune_trainer.config import Lora, ModuleRank
from finetune_trainer.models.adapter_limits import list_unloadable
from finetune_trainer.models.adapter_size import AdapterSize, find_adapter_size, find_max_rank

RANKS = (ModuleRank(modules=("q_proj",), rank=300, alpha=8),)


@pytest.mark.parametrize(
    ("lora", "size"),
    [
        (Lora(), AdapterSize(16, 32)),
        (Lora(initialization="PiSSA"), AdapterSize(32, 64)),
        (Lora(scaling="RankStabilized"), AdapterSize(16, 128)),
        (Lora(scaling="RankStabilized", initialization="PiSSA"), AdapterSize(32, 256)),
        (Lora(rank=2, alpha=3, scaling="RankStabilized"), AdapterSize(2, pytest.approx(3 * 2**0.5))),
    ],
)
def test_alpha_divided_by_the_rank_is_the_scale_of_the_matrices(lora: Lora, size: AdapterSize) -> None:
    found = find_adapter_size(lora, lora.rank, lora.alpha)
    assert found == size
    divisor = lora.rank**0.5 if lora.scaling == "RankStabilized" else lora.rank
    assert found.alpha / found.rank == pytest.approx(lora.alpha / divisor)


def test_a_whole_alpha_is_an_integer_in_adapter_config() -> None:
    assert type(find_adapter_size(Lora(scaling="RankStabilized"), 16, 8).alpha) is int


@pytest.mark.parametrize(
    ("lora", "fields"),
    [
        (Lora(rank=512), []),
        (Lora(rank=513), ["rank"]),
        (Lora(rank=256, initialization="PiSSA", scaling="RankStabilized", exclude_modules=("gate",)), []),
        (Lora(rank=257, initialization="PiSSA"), ["rank"]),
        (Lora(module_ranks=RANKS), ["moduleRanks"]),
        (Lora(module_ranks=RANKS, initialization="PiSSA"), ["moduleRanks", "rank"]),
        (Lora(weight_decomposition=True, train_embeddings=True), ["weightDecomposition", "trainEmbeddings"]),
    ],
)
def test_properties_that_servers_do_not_load_are_named_by_their_fields(lora: Lora, fields: list[str]) -> None:
    assert [text.partition(" ")[0] for text in list_unloadable(lora)] == [
        f"method.lora.{field}" for field in fields
    ]


def test_the_largest_rank_is_that_of_any_layer() -> None:
    assert find_max_rank(Lora(rank=16, module_ranks=RANKS)) == 300
    assert find_max_rank(Lora(rank=400, module_ranks=RANKS, initialization="PiSSA")) == 800
