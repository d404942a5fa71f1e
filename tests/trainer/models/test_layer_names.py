import pytest

from finetune_trainer.config import Lora, ModuleRank
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import layer_names
from finetune_trainer.models.adapter_size import AdapterSize

LINEAR = [
    f"encoder.layer.{number}.{name}"
    for number in range(12)
    for name in ("attention.self.query", "attention.self.value", "output.dense")
]


def ranks(*modules: tuple[str, ...]) -> tuple[ModuleRank, ...]:
    return tuple(ModuleRank(modules=names, rank=4, alpha=8) for names in modules)


def test_names_that_are_there_are_taken() -> None:
    assert list(layer_names.select_layers(Lora(), LINEAR)) == LINEAR
    names = ("query", "self.value", "encoder.layer.3.output.dense")
    selected = layer_names.select_layers(Lora(target_modules=names), LINEAR)
    assert list(selected) == [name for name in LINEAR if name.endswith(("query", "value")) or ".3." in name]
    assert set(selected.values()) == {AdapterSize(16, 32)}


def test_excluded_layers_are_left_out_and_the_first_rank_of_a_layer_applies() -> None:
    lora = Lora(
        exclude_modules=("output.dense",),
        module_ranks=(
            ModuleRank(modules=("1.attention.self.query",), rank=2, alpha=3),
            ModuleRank(modules=("query",), rank=4, alpha=5),
        ),
    )
    selected = layer_names.select_layers(lora, LINEAR)
    assert list(selected) == [name for name in LINEAR if not name.endswith("dense")]
    for name, size in selected.items():
        if name == "encoder.layer.1.attention.self.query":
            assert size == AdapterSize(2, 3)
        else:
            assert size == (AdapterSize(4, 5) if name.endswith("query") else AdapterSize(16, 32))


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        (
            Lora(target_modules=("q_proj", "query")),
            "targetModules: .* named q_proj; the model has dense",
        ),
        (Lora(target_modules=("uery",)), ".* uery; the model has dense, query, value"),
        (Lora(target_modules=("LayerNorm",)), ".* LayerNorm; the model has dense, query, value"),
        (Lora(exclude_modules=("gate",)), "excludeModules: no linear layer .* gate; the model has dense"),
        (
            Lora(target_modules=("query", "self.value"), exclude_modules=("attention.self.query", "value")),
            "targetModules: excludeModules excludes all layers of query, self.value; the model has dense",
        ),
        (
            Lora(target_modules=("query",), module_ranks=ranks(("query", "value"))),
            r"moduleRanks\[0\].modules: no linear layer .* value; the model has query",
        ),
        (
            Lora(module_ranks=ranks(("query", "dense"), ("3.attention.self.query",))),
            r"moduleRanks\[1\].modules: no linear layer .* 3.attention.self.query; the model has value",
        ),
    ],
)
def test_a_name_that_selects_no_layer_is_refused_with_the_names_that_do(lora: Lora, says: str) -> None:
    with pytest.raises(StageFailure, match=f"method.lora.{says}") as caught:
        layer_names.select_layers(lora, LINEAR)
    assert caught.value.reason == "TargetModulesUnknown"


def test_more_layers_than_there_are_cannot_be_trained() -> None:
    assert layer_names.check_layer_count(12, 12) is None
    failure = layer_names.check_layer_count(13, 12)
    assert failure
    assert failure.reason == "TooManyLayers"
    assert "13 layers, but the model has 12" in failure.message
