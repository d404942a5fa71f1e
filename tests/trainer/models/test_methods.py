"""Each method from training to what is published: two ranks, ZeRO, a real S3 server, then plain libraries."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, copytree
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from finetune_trainer.config import FreezeLayers, Lora, Method, ModuleRank, TrainConfig
from finetune_trainer.contract import Stage, WeightsDtype
from finetune_trainer.data.shards import Prepared
from finetune_trainer.models.weights import torch_dtype
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import Store
from finetune_trainer.stages import publish
from finetune_trainer.tasks.text_classification import model as task
from finetune_trainer.tasks.text_classification.model import classify
from tests.trainer.models import bases
from tests.trainer.stages.test_train import chosen_for, ranks, trained

HEARTBEAT = SimpleNamespace(beat=lambda *_args, **_fields: None, leave_requested=False)


TOLERANCE = {"float32": 1e-5, "float16": 1e-5, "bfloat16": 1e-2}
"""Largest difference of a probability. Train measures the published weights, so only arithmetic differs."""
Bases = Callable[[WeightsDtype], Path]
Tune = Callable[[Method, int, WeightsDtype], Path]


@pytest.fixture
def base_of(tiny_base: Path, tmp_path: Path) -> Bases:
    """The tiny base model with weights of a data type."""

    def make(dtype: WeightsDtype) -> Path:
        folder = tmp_path / f"base-{dtype}"
        if not folder.exists():
            copytree(tiny_base, folder)
            weights = load_file(folder / "model.safetensors")
            save_file(
                {name: value.to(torch_dtype(dtype)) for name, value in weights.items()},
                folder / "model.safetensors",
                metadata={"format": "pt"},
            )
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
        return folder

    return make


@pytest.fixture
def tuned(
    given_run: Callable[..., TrainConfig], base_of: Bases, learnable: Prepared, paths: Paths, store: Store
) -> Tune:
    """Trains by a method at a ZeRO stage and publishes; gives the published folder."""

    def make(method: Method, zero_stage: int, dtype: WeightsDtype) -> Path:
        """Train computes in bfloat16 for a bfloat16 model, else in float32."""
        chosen = chosen_for(learnable, zero_stage=zero_stage, model_dtype=dtype)
        precision = "BFloat16" if dtype == "bfloat16" else "Float32"
        config = given_run(base_of(dtype), learnable, chosen, method, precision=precision)
        ended = ranks(config, paths, "pod-one-")
        assert ended.returncode == 0, ended.stderr[-4000:]
        payload, _ = trained(store, config)
        assert payload.evaluation.tuned
        assert payload.evaluation.tuned.primary > 0.9
        publish.run(config.model_copy(update={"stage": Stage.PUBLISH}), paths, HEARTBEAT)
        folder = paths.root / "published"
        for entry in store.list(config.run.output):
            store.download(entry.uri, folder / entry.uri.removeprefix(config.run.output))
        return folder

    return make


def by_card(folder: Path, base: Path) -> Any:
    """The model as the card of an adapter says it is made."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder)).replace("path/to/the/base/model", str(base)), names)  # noqa: S102
    return names["model"].eval()


def check_published(folder: Path, file: str, dtype: WeightsDtype) -> None:
    """The weights have the data type of the base model, and config.json says so to transformers 4 and 5."""
    with safe_open(folder / file, framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch_dtype(dtype)}  # noqa: SIM118
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == (dtype, dtype)


def check_answers(model: Any, folder: Path, prepared: Prepared, dtype: WeightsDtype) -> None:
    """The model gives the probabilities that Train measured, to the digits that are written down."""
    model = model if dtype == "bfloat16" else model.float()
    told = [json.loads(line) for line in (folder / "evaluation/predictions.jsonl").read_text().splitlines()]
    inputs = task.collate(prepared.test, range(len(prepared.test)), 0, None)
    with torch.no_grad():
        shares = classify(model, inputs).softmax(dim=1)
    labels = model.config.id2label
    for row, line in zip(shares.tolist(), told, strict=True):
        found = {labels[number]: share for number, share in enumerate(row)}
        assert found == pytest.approx(line["probabilities"], abs=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_works_on_its_base_model_by_plain_peft(
    tuned: Tune, base_of: Bases, learnable: Prepared, dtype: WeightsDtype
) -> None:
    folder = tuned(Lora(rank=4, alpha=8, dropout=0.1, served_base_name="org/minilm"), 2, dtype)
    check_published(folder, "adapter_model.safetensors", dtype)
    assert not (folder / "model.safetensors").exists()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/minilm"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)
    weights = load_file(folder / "adapter_model.safetensors")
    assert sum(name.endswith(".lora_A.weight") for name in weights) == 2 * 6
    card = (folder / "README.md").read_text()
    assert "on the linear layers 6 dense, 2 key, 2 query, 2 value, and the head" in card
    assert "the class layer is new" in card
    assert {name for name in weights if ".lora_" not in name} == {
        f"base_model.model.{module}.{kind}"
        for module in ("classifier", "bert.pooler.dense")
        for kind in ("weight", "bias")
    }
    check_answers(by_card(folder, base_of(dtype)), folder, learnable, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_merged_adapter_is_a_model_of_its_own_and_only_its_layers_differ_from_the_base(
    tuned: Tune, base_of: Bases, learnable: Prepared, dtype: WeightsDtype
) -> None:
    folder = tuned(Lora(rank=4, alpha=8, target_modules=("query", "output.dense"), merge=True), 3, dtype)
    check_published(folder, "model.safetensors", dtype)
    assert not list(folder.glob("adapter*"))
    check_answers(AutoModelForSequenceClassification.from_pretrained(folder), folder, learnable, dtype)
    changed = {name for name in differing(folder, base_of(dtype)) if not name.startswith("pooler.")}
    ends = ("attention.self.query.weight", "attention.output.dense.weight", "layer.{}.output.dense.weight")
    assert changed == {
        f"encoder.layer.{number}.{end}" if not end.startswith("layer") else f"encoder.{end.format(number)}"
        for number in range(2)
        for end in ends
    }


@pytest.mark.parametrize(("dtype", "zero_stage", "merge"), [("bfloat16", 3, False), ("float32", 2, True)])
def test_all_variants_of_lora_together_are_published_as_they_were_measured(
    tuned: Tune, base_of: Bases, learnable: Prepared, dtype: WeightsDtype, zero_stage: int, *, merge: bool
) -> None:
    lora = Lora(
        rank=4,
        alpha=4,
        scaling="RankStabilized",
        initialization="PiSSA",
        weight_decomposition=True,
        exclude_modules=("intermediate.dense",),
        module_ranks=(ModuleRank(modules=("query", "value"), rank=2, alpha=3),),
        train_embeddings=True,
        merge=merge,
    )
    folder = tuned(lora, zero_stage, dtype)
    if merge:
        check_published(folder, "model.safetensors", dtype)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    else:
        check_published(folder, "adapter_model.safetensors", dtype)
        weights = load_file(folder / "adapter_model.safetensors")
        assert "base_model.model.bert.embeddings.word_embeddings.weight" in weights
        ranks = {name: value.shape[0] for name, value in weights.items() if name.endswith(".lora_A.weight")}
        assert sorted(ranks.values()) == [4] * 4 + [8] * 6
        assert sum(name.endswith(".lora_magnitude_vector") for name in weights) == 10
        model = by_card(folder, base_of(dtype))
    check_answers(model, folder, learnable, dtype)
    card = (folder / "README.md").read_text()
    for words in ("rank 2 and alpha 3 for query, value", "rank-stabilized", "PiSSA", "DoRA", "embeddings"):
        assert words in card


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_layers_stay_as_they_are_to_the_bit(
    tuned: Tune, base_of: Bases, learnable: Prepared, dtype: WeightsDtype
) -> None:
    folder = tuned(FreezeLayers(train_last=1), 3, dtype)
    check_published(folder, "model.safetensors", dtype)
    check_answers(AutoModelForSequenceClassification.from_pretrained(folder), folder, learnable, dtype)
    base = load_file(base_of(dtype) / "model.safetensors")
    trained = {name for name in base if name.startswith(("encoder.layer.1.", "pooler."))}
    # The bias of keys moves all scores of a query alike, so that it has no gradient to speak of.
    assert differing(folder, base_of(dtype)) >= {name for name in trained if not name.endswith("key.bias")}
    assert differing(folder, base_of(dtype)) <= trained


@pytest.mark.parametrize(
    ("classes", "kept"), [({"0": "good", "1": "bad"}, False), ({"0": "red", "1": "green", "2": "blue"}, True)]
)
def test_in_shards_too_a_classifier_is_tuned_on(
    given_run: Callable[..., TrainConfig],
    tiny_base: Path,
    learnable: Prepared,
    paths: Paths,
    store: Store,
    tmp_path: Path,
    classes: dict[str, str],
    kept: bool,
) -> None:
    config, shapes = bases.bert(50, id2label=classes)
    bases.write(tmp_path / "base", config, bases.weights(shapes))
    for file in tiny_base.glob("tokenizer*"):
        copyfile(file, tmp_path / "base" / file.name)
    chosen = chosen_for(learnable, zero_stage=3, epochs=1)
    run = given_run(tmp_path / "base", learnable, chosen)
    ended = ranks(run, paths, "pod-one-")
    assert ended.returncode == 0, ended.stderr[-4000:]
    _, record = trained(store, run)
    assert record.head_kept is kept


def differing(folder: Path, base: Path) -> set[str]:
    """Names of the base model's weights that are others in a tuned one."""
    tuned = load_file(folder / "model.safetensors")
    return {
        name
        for name, weight in load_file(base / "model.safetensors").items()
        if not torch.equal(tuned[f"bert.{name}"], weight)
    }
