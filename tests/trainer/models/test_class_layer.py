"""Classifiers whose base is a classifier already: of the same classes, or of others."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from finetune_trainer.models import methods
from finetune_trainer.models.class_layer import find_class_layer
from finetune_trainer.tasks.text_classification.classifier import load_classifier
from tests.trainer.models import bases

OLD = {"0": "red", "1": "green", "2": "blue"}
INPUT = torch.tensor([[4, 7, 1]])


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """A BERT that classifies colours, and is sure of itself."""
    config, shapes = bases.bert(50, id2label=OLD, label2id={name: int(n) for n, name in OLD.items()})
    tensors = bases.weights(shapes)
    tensors["classifier.weight"] *= 50
    bases.write(tmp_path / "base", config, tensors)
    for file in tiny_base.glob("tokenizer*"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "base"


def test_the_layer_of_the_same_classes_is_kept_in_their_new_order(folder: Path) -> None:
    model = load_classifier(folder, ("blue", "green", "red"), torch.float32).eval()
    assert model.head_kept
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert model.config.label2id == {"blue": 0, "green": 1, "red": 2}
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert torch.equal(model(INPUT).logits, plain(INPUT).logits.flip(1))
    assert bool((model(INPUT).logits.abs() > 1).any())


@pytest.mark.parametrize(
    "classes",
    [("billing", "repair", "sales"), ("blue", "green"), ("blue", "green", "Red"), tuple("abcde")],
    ids=["as many", "some of them", "another spelling", "more"],
)
def test_a_layer_of_other_classes_is_replaced_by_one_that_knows_nothing_of_them(
    folder: Path, classes: tuple[str, ...]
) -> None:
    torch.manual_seed(3)
    model = load_classifier(folder, classes, torch.float32).eval()
    assert model.head_kept is False
    assert model.config.num_labels == model.num_labels == len(classes)
    assert model.config.id2label == dict(enumerate(classes))
    weight = model.classifier.weight
    assert weight.shape == (len(classes), bases.HIDDEN)
    assert bool((weight.abs() < 0.2).all())
    assert not bool(model.classifier.bias.any())
    torch.manual_seed(3)
    torch.rand(7)
    assert torch.equal(load_classifier(folder, classes, torch.float32).classifier.weight, weight)
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(model.bert.pooler.dense.weight, plain.bert.pooler.dense.weight)


def test_a_saved_config_names_the_classes_also_where_they_are_the_defaults_of_transformers(
    folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    model = load_classifier(folder, ("LABEL_0", "LABEL_1"), torch.float32)
    methods.save(model, saved, "s3://models/base/", torch.float32)
    config = json.loads((saved / "config.json").read_bytes())
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert config["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}
    plain = AutoModelForSequenceClassification.from_pretrained(saved)
    assert plain.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_classes_of_one_name_are_not_the_same(folder: Path) -> None:
    config, shapes = bases.bert(50, id2label={"0": "x", "1": "x"})
    bases.write(folder, config, bases.weights(shapes))
    assert load_classifier(folder, ("x", "y"), torch.float32).head_kept is False


def test_a_layer_that_is_not_in_the_files_is_new_whatever_the_names(folder: Path) -> None:
    config, shapes = bases.bert(50, id2label={"0": "no", "1": "yes"})
    shapes = {name: shape for name, shape in shapes.items() if "classifier" not in name}
    bases.write(folder, config, bases.weights(shapes))
    assert load_classifier(folder, ("no", "yes"), torch.float32).head_kept is False


def test_an_inner_layer_as_wide_as_the_classes_are_many_is_not_the_class_layer() -> None:
    config = RobertaConfig(
        vocab_size=20,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=4,
        num_labels=4,
    )
    assert find_class_layer(RobertaForSequenceClassification(config)) == "classifier.out_proj"
