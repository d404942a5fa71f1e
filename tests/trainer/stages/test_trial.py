"""The trial of a base model: what Train would refuse, found from its config and the shapes of its weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from finetune_trainer.config import FreezeLayers, Lora, Method
from finetune_trainer.contract import Task
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import trial as models_trial
from finetune_trainer.models.model_folder import Inspection
from finetune_trainer.paths import Paths
from finetune_trainer.stages import trial
from finetune_trainer.stages.trial import Outcome, Request
from tests.trainer.models import bases

TASKS: dict[str, Task] = {"llama": "TextGeneration", "mixture": "TextGeneration"}
CLASSES = {"0": "no", "1": "yes"}


def examine(folder: Path, base: tuple[bases.Config, bases.Shapes], method: Method, task: Task) -> Outcome:
    """The trial in this process."""
    config, shapes = base
    (folder / "config.json").write_text(json.dumps(config))
    return trial.run_trial(folder, Request(task=task, method=method, shapes=shapes, weights="float32"))


@pytest.mark.parametrize(
    ("base", "task", "method"),
    [
        (bases.bert(), "TextClassification", "Full"),
        (bases.bert(id2label=CLASSES), "TextClassification", Lora()),
        (bases.llama(), "TextClassification", Lora(target_modules=("q_proj", "mlp.up_proj"))),
        (bases.llama(), "TextGeneration", FreezeLayers(train_last=2)),
        (bases.mixture(), "TextGeneration", "Full"),
    ],
    ids=["encoder", "classifier", "decoder as classifier", "decoder", "mixture"],
)
def test_what_trains_is_accepted_after_rows_went_through(
    tmp_path: Path, base: tuple[bases.Config, bases.Shapes], task: Task, method: Method
) -> None:
    outcome = examine(tmp_path, base, method, task)
    assert outcome.refusal is None
    assert outcome.rows_tried
    assert outcome.can_checkpoint
    assert outcome.sizes
    assert outcome.sizes.trained < outcome.sizes.parameters or method == "Full"
    # The meta device multiplies the matrices of experts only in bfloat16.
    assert outcome.sizes.activations or base == bases.mixture()


def test_an_architecture_without_activation_checkpointing_is_recognised(tmp_path: Path) -> None:
    config = transformers.SqueezeBertConfig(
        vocab_size=320,
        hidden_size=32,
        embedding_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        architectures=["SqueezeBertForSequenceClassification"],
    )
    with torch.device("meta"):
        weights = transformers.SqueezeBertForSequenceClassification(config).state_dict()
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    outcome = examine(tmp_path, (config.to_dict(), shapes), "Full", "TextClassification")
    assert outcome.refusal is None
    assert not outcome.can_checkpoint


@pytest.mark.parametrize(
    ("base", "task", "method", "reason", "says"),
    [
        (
            bases.mixture(),
            "TextGeneration",
            Lora(target_modules=("gate_proj", "up_proj")),
            "TargetModulesUnknown",
            "gate_proj, up_proj; the model has k_proj, o_proj, q_proj, v_proj",
        ),
        (
            bases.llama(),
            "TextGeneration",
            Lora(target_modules=("lm_head",)),
            "TargetModulesUnknown",
            "lm_head",
        ),
        (
            bases.bert(id2label=CLASSES),
            "TextClassification",
            Lora(target_modules=("classifier",)),
            "TargetModulesUnknown",
            "classifier",
        ),
        (
            bases.bert(),
            "TextClassification",
            Lora(target_modules=("word_embeddings",)),
            "TargetModulesUnknown",
            "word_embeddings",
        ),
        (
            bases.llama(),
            "TextGeneration",
            FreezeLayers(train_last=3),
            "TooManyLayers",
            "3 layers, but the model has 2",
        ),
        (
            bases.t5(),
            "TextClassification",
            "Full",
            "ModelUnsupported",
            "cannot put a row through it: ValueError",
        ),
        (
            bases.llama(hidden_size=30),
            "TextGeneration",
            "Full",
            "ModelUnsupported",
            "cannot make an AutoModelForCausalLM of it",
        ),
        (
            bases.llama(intermediate_size=48),
            "TextGeneration",
            "Full",
            "ModelIncomplete",
            "mlp.down_proj.weight",
        ),
        (bases.bert(), "TextGeneration", "Full", "ModelIncomplete", "cls.predictions"),
        (
            bases.llama(hidden_act="made-up"),
            "TextGeneration",
            "Full",
            "ModelUnsupported",
            "made-up",
        ),
    ],
    ids=[
        "fused experts",
        "output layer",
        "class layer",
        "embeddings",
        "layers",
        "encoder-decoder",
        "sizes",
        "shapes",
        "no head",
        "unknown function",
    ],
)
def test_what_train_would_refuse_is_refused_in_one_line(
    tmp_path: Path,
    base: tuple[bases.Config, bases.Shapes],
    task: Task,
    method: Method,
    reason: str,
    says: str,
) -> None:
    outcome = examine(tmp_path, base, method, task)
    assert outcome.refusal
    assert (outcome.refusal.reason, outcome.refusal.failure) == (reason, "UserConfig")
    assert says in outcome.refusal.message
    assert "\n" not in outcome.refusal.message


def test_a_large_model_is_tried_with_two_of_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, shapes = bases.llama(num_hidden_layers=6, layer_types=["full_attention"] * 6)
    for layer in range(2, 6):
        shapes |= {
            name.replace(".0.", f".{layer}."): shape for name, shape in shapes.items() if ".layers.0." in name
        }
    monkeypatch.setattr(models_trial, "MAX_PARAMETERS", 90_000)
    outcome = examine(tmp_path, (config, shapes), FreezeLayers(train_last=6), "TextGeneration")
    assert outcome.refusal is None
    assert outcome.rows_tried


def test_a_model_of_which_one_layer_is_too_large_is_built_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_trial, "MAX_PARAMETERS", 10_000)
    outcome = examine(tmp_path, bases.llama(), FreezeLayers(train_last=2), "TextGeneration")
    assert outcome.refusal is None
    assert not outcome.rows_tried
    outcome = examine(tmp_path, bases.llama(), FreezeLayers(train_last=3), "TextGeneration")
    assert outcome.refusal
    assert outcome.refusal.reason == "TooManyLayers"


@pytest.mark.parametrize(
    ("base", "method", "code"),
    [
        (bases.mixture(), Lora(), "ExpertsNotAdapted"),
        (bases.llama(tie_word_embeddings=True), FreezeLayers(train_last=1), "OutputFrozen"),
    ],
)
def test_prepare_is_told_what_the_method_leaves_unchanged(
    tmp_path: Path, base: tuple[bases.Config, bases.Shapes], method: Method, code: str
) -> None:
    config, shapes = base
    inspection = Inspection(config, shapes, "float32", ())
    (finding,) = trial.try_model("TextGeneration", method, inspection, "float32", Paths(tmp_path)).findings
    assert (finding.level, finding.code) == ("warning", code)
    if code == "ExpertsNotAdapted":
        experts = 2 * 4 * 3 * 16 * 32
        assert f"{experts:,} of {inspection.parameters:,}" in finding.message
        assert "2 k_proj, 2 o_proj, 2 q_proj, 2 v_proj" in finding.message


@pytest.mark.parametrize(
    ("base", "task", "merge", "codes"),
    [
        (bases.llama(), "TextGeneration", False, ["AdapterNotServable"]),
        (bases.llama(), "TextGeneration", True, []),
        (bases.bert(), "TextClassification", False, []),
    ],
    ids=["adapter", "merged", "no server loads the adapter of a classifier"],
)
def test_an_adapter_that_servers_do_not_load_is_a_warning(
    tmp_path: Path, base: tuple[bases.Config, bases.Shapes], task: Task, codes: list[str], *, merge: bool
) -> None:
    config, shapes = base
    lora = Lora(
        initialization="PiSSA",
        weight_decomposition=True,
        train_embeddings=True,
        merge=merge,
    )
    inspection = Inspection(config, shapes, "float32", ())
    found = trial.try_model(task, lora, inspection, "float32", Paths(tmp_path)).findings
    assert [finding.code for finding in found] == codes
    for finding in found:
        for word in ("weightDecomposition", "trainEmbeddings", "output.mergeAdapter", "vLLM"):
            assert word in finding.message


@pytest.mark.own_process
def test_the_process_tells_prepare_what_it_refuses(tmp_path: Path) -> None:
    config, shapes = bases.llama()
    with pytest.raises(StageFailure, match="TargetModulesUnknown"):
        trial.try_model(
            "TextGeneration",
            Lora(target_modules=("lm_head",)),
            Inspection(config, shapes, "float32", ()),
            "float32",
            Paths(tmp_path),
        )


@pytest.mark.own_process
def test_a_process_that_dies_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.sys, "executable", "/bin/false")
    config, shapes = bases.llama()
    inspection = Inspection(config, shapes, "float32", ())
    (finding,) = trial.try_model("TextGeneration", "Full", inspection, "float32", Paths(tmp_path)).findings
    assert finding.code == "ModelNotTried"
    assert "ended with code 1" in finding.message


def test_an_error_is_told_by_its_type_and_first_line() -> None:
    error: Any = ValueError("\n first line. \nsecond line")
    assert models_trial.format_error(error) == "ValueError: first line"
    assert models_trial.format_error(KeyError()) == "KeyError"


@pytest.mark.parametrize("most", [models_trial.MAX_PARAMETERS, 60_000], ids=["whole", "shortened"])
@pytest.mark.parametrize("task", ["TextGeneration", "TextClassification"])
def test_a_language_model_within_another_model_is_tried_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, most: int
) -> None:
    monkeypatch.setattr(models_trial, "MAX_PARAMETERS", most)
    outcome = examine(tmp_path, bases.gemma3(layers=6), FreezeLayers(train_last=6), task)
    assert outcome.refusal is None
    assert outcome.rows_tried
    outcome = examine(tmp_path, bases.gemma3(layers=6), FreezeLayers(train_last=7), task)
    assert outcome.refusal
    assert "7 layers, but the model has 6" in outcome.refusal.message
