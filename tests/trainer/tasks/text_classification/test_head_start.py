"""The head's last linear layer of real architectures, in tiny random models."""

from typing import Any

import pytest
import torch
import transformers

from finetune_trainer.models.class_layer import find_class_layer
from finetune_trainer.models.logistic_regression import LinearClassifier
from finetune_trainer.models.weights import overwrite
from finetune_trainer.tasks.text_classification.classifier import classify
from finetune_trainer.tasks.text_classification.head_start import build_head_weights, bypass_layer
from finetune_trainer.tasks.text_classification.model import head

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "num_labels": 3,
}
MODELS = [
    (transformers.BertConfig(**SMALL), "classifier"),
    (transformers.RobertaConfig(**SMALL), "classifier.out_proj"),
    (
        transformers.DistilBertConfig(
            vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3
        ),
        "classifier",
    ),
    (transformers.DebertaV2Config(**SMALL, pooler_hidden_size=16), "classifier"),
    (
        transformers.ModernBertConfig(
            **SMALL, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2
        ),
        "classifier",
    ),
    (transformers.ElectraConfig(**SMALL, embedding_size=16), "classifier.out_proj"),
    (transformers.LlamaConfig(**SMALL, num_key_value_heads=2), "score"),
]


def inputs() -> dict[str, torch.Tensor]:
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    return {"input_ids": torch.arange(3, 19).view(2, 8) * mask, "attention_mask": mask}


@pytest.mark.parametrize(("config", "expected"), MODELS, ids=lambda value: getattr(value, "model_type", ""))
def test_the_classifier_put_into_the_head_gives_its_own_logits(config: Any, expected: str) -> None:
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    layer = find_class_layer(model)
    assert layer == expected
    linear = model.get_submodule(layer)
    with torch.no_grad(), bypass_layer(model, layer):
        features = classify(model, inputs())
    assert features.shape == (2, 16)
    assert model.get_submodule(layer) is linear
    bias = torch.arange(3).double() if linear.bias is not None else torch.zeros(3).double()
    classifier = LinearClassifier(torch.randn(3, 16, dtype=torch.float64), bias)
    start = build_head_weights(model, head(model), layer, classifier)
    assert f"{layer}.weight" in start
    assert not any(name.startswith(f"{model.base_model_prefix}.") and "pooler" not in name for name in start)
    overwrite(model, start)
    with torch.no_grad():
        logits = classify(model, inputs())
    torch.testing.assert_close(
        logits.double(), features.double() @ classifier.weight.T + bias, rtol=1e-5, atol=1e-5
    )
