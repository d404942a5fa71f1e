import pytest

from finetune_trainer.config import FreezeLayers, Lora, Method
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import layer_names

BERT = {
    "embeddings.word_embeddings.weight": (50, 16),
    "embeddings.LayerNorm.weight": (16,),
    **{
        f"encoder.layer.{number}.{name}": shape
        for number in range(12)
        for name, shape in {
            "attention.self.query.weight": (16, 16),
            "attention.self.value.weight": (16, 16),
            "output.dense.weight": (16, 64),
            "output.dense.bias": (16,),
            "output.LayerNorm.weight": (16,),
        }.items()
    },
}
GPT2 = {
    "wte.weight": (50, 16),
    "wpe.weight": (32, 16),
    "h.0.attn.c_attn.weight": (16, 48),
    "h.1.attn.c_attn.weight": (16, 48),
}
MIXTURE = {
    f"model.layers.{layer}.experts.{expert}.w1.weight": (8, 8) for layer in (0, 1) for expert in range(8)
}


@pytest.mark.parametrize(
    ("weights", "layers_there"), [(BERT, 12), (GPT2, 2), (MIXTURE, 2), ({"lm_head.weight": (4, 4)}, 0)]
)
def test_layers_are_counted_where_most_weights_are(
    weights: dict[str, tuple[int, ...]], layers_there: int
) -> None:
    assert layer_names.count(weights) == layers_there


@pytest.mark.parametrize(
    "method",
    [
        "Full",
        Lora(),
        Lora(target_modules=("query", "self.value", "encoder.layer.3.output.dense")),
        FreezeLayers(train_last=12),
    ],
)
def test_layers_that_are_there_are_taken(method: Method) -> None:
    layer_names.check(method, BERT)


@pytest.mark.parametrize(
    ("method", "weights", "reason", "says"),
    [
        (
            Lora(target_modules=("q_proj", "query")),
            BERT,
            "TargetModulesUnknown",
            "q_proj; the model has dense, q",
        ),
        (Lora(target_modules=("uery",)), BERT, "TargetModulesUnknown", "uery"),
        (Lora(target_modules=("LayerNorm",)), BERT, "TargetModulesUnknown", "LayerNorm"),
        (Lora(target_modules=("word_embeddings",)), BERT, "TargetModulesUnknown", "word_embeddings"),
        (Lora(target_modules=("wte",)), GPT2, "TargetModulesUnknown", "c_attn"),
        (FreezeLayers(train_last=13), BERT, "TooManyLayers", "13 layers, but the model has 12"),
        (FreezeLayers(train_last=1), {"lm_head.weight": (4, 4)}, "TooManyLayers", "the model has 0"),
    ],
)
def test_layers_that_are_not_there_are_refused_with_those_that_are(
    method: Method, weights: dict[str, tuple[int, ...]], reason: str, says: str
) -> None:
    with pytest.raises(StageFailure) as failure:
        layer_names.check(method, weights)
    assert failure.value.reason == reason
    assert says in failure.value.message
