"""Tiny BERTs, saved as transformers does it; some of them are spoilt in their files."""

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
)
from transformers.utils import logging

from finetune_trainer.config import Lora
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import load, lora
from finetune_trainer.models.weights import whole_tensors

AUTO = AutoModelForSequenceClassification
WEIGHTS = "model.safetensors"
BIAS = "bert.encoder.layer.1.output.dense.bias"
FIRST = ("LayerNorm.bias", "LayerNorm.weight", "dense.bias")
INPUT = torch.tensor([[4, 7, 1]])


def bert(seed: int = 1, classes: int = 3) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        num_labels=classes,
    )
    return BertForSequenceClassification(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier of three classes as it was saved."""
    bert().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def reweighted(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def reconfigured(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_saved_model_answers_as_before_in_float32(folder: Path) -> None:
    loaded = load.load_saved(AUTO, folder, None, torch.float32)
    assert not loaded.training
    assert torch.equal(loaded(INPUT).logits, bert().eval()(INPUT).logits)
    bert().to(torch.bfloat16).save_pretrained(folder)
    for dtype in (torch.float32, torch.bfloat16):
        weights = load.load_saved(AUTO, folder, None, dtype).parameters()
        assert {weight.dtype for weight in weights} == {dtype}


@pytest.mark.parametrize("classes", [3, 5])
def test_an_adapter_makes_the_tuned_model_of_a_base_with_whatever_head(folder: Path, classes: int) -> None:
    tuned = lora.add_adapter(bert(), Lora(rank=2, alpha=4), ("classifier",), seed=1)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if ".lora_B." in name:
                weight.normal_()
    (folder / "adapter").mkdir()
    lora.save(tuned, dict(whole_tensors(tuned)), folder / "adapter", "s3://m/base/")
    base = bert(classes=classes)
    base.bert.load_state_dict(bert().bert.state_dict())
    base.save_pretrained(folder)
    loaded = load.load_saved(AUTO, folder / "adapter", folder, torch.float32)
    assert not loaded.training
    assert torch.equal(loaded(INPUT).logits, tuned.eval()(INPUT).logits)
    assert not torch.allclose(loaded(INPUT).logits, bert().eval()(INPUT).logits, atol=1e-4)
    reweighted(folder, lambda weights: weights.pop(BIAS))
    with pytest.raises(StageFailure, match=f"ModelIncomplete.*{BIAS}"):
        load.load_saved(AUTO, folder / "adapter", folder, torch.float32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weights: weights.pop("classifier.bias"), "'missing_keys': ['classifier.bias']"),
        (lambda weights: weights.update(other=torch.zeros(1)), "'unexpected_keys': ['other']"),
    ],
    ids=["missing", "left over"],
)
def test_a_saved_model_lacks_nothing_and_has_nothing_more(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str
) -> None:
    reweighted(folder, change)
    with pytest.raises(StageFailure, match="ModelIncomplete") as caught:
        load.load_saved(AUTO, folder, None, torch.float32)
    assert caught.value.failure is FailureClass.INTERNAL
    assert says in caught.value.message


class Weapon:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Weapon(folder / "ran")))


def with_code(folder: Path) -> None:
    reconfigured(folder, model_type="own", auto_map={"AutoConfig": "own.Own", AUTO.__name__: "own.Own"})
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass Own: pass\n")


def cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


@pytest.mark.parametrize(
    "spoil",
    [
        pickled,
        with_code,
        cut_off,
        lambda folder: reconfigured(folder, hidden_size=16),
        lambda folder: reconfigured(folder, model_type="vit"),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: reconfigured(folder, model_type="x" * 5000),
    ],
    ids=["pickled", "own code", "cut off", "other sizes", "no texts", "no JSON", "long story"],
)
def test_what_cannot_be_loaded_is_refused_and_runs_no_code(
    folder: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(folder)
    with pytest.raises(StageFailure, match="ModelDoesNotLoad") as caught:
        load.load_saved(AUTO, folder, None, torch.float32)
    assert caught.value.failure is FailureClass.INTERNAL
    assert len(caught.value.message) <= 1000
    assert not (folder / "ran").exists()


def test_an_adapter_of_a_base_that_does_not_load_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match="ModelDoesNotLoad"):
        load.load_saved(AUTO, folder, tmp_path / "none", torch.float32)


def check(folder: Path, auto: Any = AUTO, **how: bool) -> None:
    """As the tasks do it: whatever has another shape is replaced, and told."""
    made, loaded = auto.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True, **load.LOCAL
    )
    load.check_complete(made, loaded, **how)


def bodiless(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if ".attention." in name]:
        del weights[name]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weights: weights.pop(BIAS), f"needs: {BIAS}"),
        (
            lambda weights: weights.update({BIAS: torch.zeros(5)}),
            f"do not fit: {BIAS} is 5 in the files and 8 by config.json",
        ),
        (
            bodiless,
            ", ".join(f"bert.encoder.layer.0.attention.output.{name}" for name in FIRST) + " and 17 more",
        ),
    ],
    ids=["missing", "other shape", "many"],
)
@pytest.mark.parametrize("new_head", [True, False])
def test_a_base_model_without_all_of_its_body_is_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str, *, new_head: bool
) -> None:
    reweighted(folder, change)
    with pytest.raises(StageFailure, match="ModelIncomplete") as caught:
        check(folder, new_head=new_head)
    assert caught.value.failure is FailureClass.USER_CONFIG
    assert caught.value.message.endswith(says)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("classifier.weight"),
        lambda weights: weights.update({"classifier.weight": torch.zeros(7, 8)}),
        lambda weights: weights.pop("bert.pooler.dense.bias"),
        lambda weights: weights.update({"bert.pooler.dense.bias": torch.zeros(5)}),
    ],
    ids=["no head", "wider head", "no pooler", "wider pooler"],
)
def test_a_head_may_be_missing_where_it_is_new_and_only_there(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    reweighted(folder, change)
    check(folder)
    with pytest.raises(StageFailure, match="ModelIncomplete"):
        check(folder, new_head=False)


def test_a_base_model_with_everything_is_complete_and_may_have_more(folder: Path) -> None:
    check(folder, new_head=False)
    reweighted(folder, lambda weights: weights.update(other=torch.zeros(1)))
    check(folder, new_head=False)


def test_without_its_head_an_encoder_is_no_complete_language_model(folder: Path) -> None:
    with pytest.raises(StageFailure, match="ModelIncomplete") as caught:
        check(folder, AutoModelForCausalLM, new_head=False)
    assert "cls.predictions" in caught.value.message


@pytest.mark.parametrize(
    ("config", "kind"), [('{"model_type": "vit"}', "'vit'"), ("{}", "'unknown'")], ids=["named", "unnamed"]
)
def test_a_model_that_is_none_for_the_task_is_named(tmp_path: Path, config: str, kind: str) -> None:
    (tmp_path / "config.json").write_text(config)
    failure = load.unusable_model(tmp_path, "why " * 500, "a classifier", "an encoder")
    assert (failure.failure, failure.reason) == (FailureClass.USER_CONFIG, "ModelUnusable")
    assert failure.message.startswith(
        f"model.uri: a model of type {kind} cannot be loaded as a classifier: why"
    )
    assert len(failure.message) == 1000
    assert failure.hint == "choose an encoder, saved as safetensors"


def test_a_model_on_its_device_is_the_same_and_ready_to_answer() -> None:
    trained = bert().train()
    assert load.move_to_device(torch.device("cpu"), trained) is trained
    assert not any(module.training for module in trained.modules())


def test_quiet_silences_what_is_no_error() -> None:
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            logging.set_verbosity_info()
            logging.enable_progress_bar()
            load.silence_libraries()
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
        finally:
            logging.set_verbosity(verbosity)
            (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        for module, category in (
            ("torch.x", FutureWarning),
            ("torch.x", UserWarning),
            ("own", FutureWarning),
        ):
            warnings.warn_explicit(f"{module} {category.__name__}", category, "x.py", 1, module)
    assert [str(warning.message) for warning in heard] == ["torch.x UserWarning", "own FutureWarning"]
