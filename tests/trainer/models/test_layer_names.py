from finetune_trainer.models import layer_names

LINEAR = [
    f"encoder.layer.{number}.{name}"
    for number in range(12)
    for name in ("attention.self.query", "attention.self.value", "output.dense")
]


def test_names_that_are_there_are_taken() -> None:
    assert layer_names.check_targets(("AllLinear",), LINEAR) is None
    names = ("query", "self.value", "encoder.layer.3.output.dense")
    assert layer_names.check_targets(names, LINEAR) is None


def test_names_that_are_not_there_are_refused_with_those_that_are() -> None:
    for unknown in (("q_proj", "query"), ("uery",), ("LayerNorm",)):
        failure = layer_names.check_targets(unknown, LINEAR)
        assert failure
        assert failure.reason == "TargetModulesUnknown"
        assert f"{unknown[0]}; the model has dense, query, value" in failure.message


def test_more_layers_than_there_are_cannot_be_trained() -> None:
    assert layer_names.check_layer_count(12, 12) is None
    failure = layer_names.check_layer_count(13, 12)
    assert failure
    assert failure.reason == "TooManyLayers"
    assert "13 layers, but the model has 12" in failure.message
