"""Training and publishing of a text generator: real ranks, ZeRO-3, a real S3 server."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer.config import Lora, TrainConfig
from finetune_trainer.contract import METRICS, Stage, Task, TrainPayload
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.paths import Paths
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.s3.store import Store
from finetune_trainer.stages import publish
from finetune_trainer.tasks.text_generation.record import GenerationFacts
from tests.trainer.models.test_methods import by_card
from tests.trainer.stages.test_train import chosen_for, ranks, trained

HEARTBEAT = SimpleNamespace(beat=lambda *_args, **_fields: None, leave_requested=False)
TASK: Task = "TextGeneration"
BOS, EOS = 0, 1
WORDS = {40: (50, 51), 41: (60, 61, 62), 42: (70,)}
"""The toy language: what follows after the last word of the prompt."""


@pytest.fixture
def language() -> Prepared:
    random = np.random.default_rng(12)

    def split(rows: int, first_line: int) -> Split:
        tokens, loss_mask = [], []
        for row in range(rows):
            last = 40 + row % 3
            prompt = [BOS, *random.integers(80, 200, random.integers(1, 8)), last]
            completion = [*WORDS[last], EOS]
            tokens.append(np.array([*prompt, *completion], dtype=np.int32))
            loss_mask.append(np.array([False] * len(prompt) + [True] * len(completion)))
        return Split(
            tokens=np.concatenate(tokens),
            offsets=np.cumsum([0, *map(len, tokens)]).astype(np.int64),
            labels=np.zeros(rows, dtype=np.int32),
            rows=np.arange(first_line, first_line + rows).astype(np.int64),
            loss_mask=np.concatenate(loss_mask),
        )

    return Prepared(split(101, 1), split(31, 102), split(41, 1), ())


def test_a_generator_learns_a_toy_language_and_is_published(
    given_run: Callable[..., TrainConfig],
    tiny_llama: Path,
    language: Prepared,
    paths: Paths,
    store: Store,
    tmp_path: Path,
) -> None:
    chosen = chosen_for(language, zero_stage=3, max_length=32)
    config = given_run(tiny_llama, language, chosen, task=TASK, metrics=METRICS[TASK])
    ended = ranks(config, paths, "pod-one-")
    assert ended.returncode == 0, ended.stderr[-4000:]
    payload, record = trained(store, config)
    check_scores(payload, record, language, store, config)
    publish.run(config.model_copy(update={"stage": Stage.PUBLISH}), paths, HEARTBEAT)
    check_published(store, config, language, tmp_path / "published")


def test_an_adapter_trained_on_quantized_weights_works_on_the_base_model_as_the_card_says(
    given_run: Callable[..., TrainConfig],
    tiny_llama: Path,
    language: Prepared,
    paths: Paths,
    store: Store,
    tmp_path: Path,
) -> None:
    chosen = chosen_for(language, zero_stage=3, max_length=32)
    method = Lora(rank=8, alpha=16, quantization="NF4")
    config = given_run(tiny_llama, language, chosen, method, task=TASK, metrics=METRICS[TASK])
    ended = ranks(config, paths, "pod-one-")
    assert ended.returncode == 0, ended.stderr[-4000:]
    payload, _ = trained(store, config)
    assert payload.evaluation.delta
    assert payload.evaluation.delta.metrics["loss"].high < -1
    publish.run(config.model_copy(update={"stage": Stage.PUBLISH}), paths, HEARTBEAT)
    folder = fetched(store, config, tmp_path / "published")
    assert not (folder / "model.safetensors").exists()
    assert "base weights in NF4 during training" in (folder / "README.md").read_text()
    model, test = by_card(folder, tiny_llama), language.test
    lines = [json.loads(line) for line in (folder / "evaluation/predictions.jsonl").read_text().splitlines()]
    for place, line in enumerate(lines):
        ids, loss_mask = torch.tensor(test.row(place).astype(int)), trained_of(test, place)
        with torch.no_grad():
            likelihoods = model(input_ids=ids[None]).logits[0].log_softmax(dim=1)
        nll = -likelihoods[:-1][torch.arange(len(ids) - 1), ids[1:]][loss_mask[1:]]
        assert nll.sum().item() == pytest.approx(line["tunedNll"], rel=1e-4, abs=1e-4)


def trained_of(split: Split, row: int) -> torch.Tensor:
    return torch.from_numpy(split.loss_mask[split.offsets[row] : split.offsets[row + 1]])


def check_scores(
    payload: TrainPayload, record: TrainingRecord, language: Prepared, store: Store, config: TrainConfig
) -> None:
    """The language is learnt, both models are measured on the same tokens, and every figure follows."""
    told = payload.evaluation
    assert told.majority is None
    assert told.primary_metric == "loss"
    assert told.tuned
    assert told.delta
    assert told.baseline.primary > 3
    assert told.tuned.primary < 0.3
    assert told.delta.metrics["loss"].high < -1
    lines = [
        json.loads(line) for line in store.read(f"{config.run.runs}report/predictions.jsonl").splitlines()
    ]
    assert [line["line"] for line in lines] == list(range(1, 42))
    tokens = sum(line["tokens"] for line in lines)
    assert tokens == int(language.test.loss_mask.sum())
    for model, scores in (("base", told.baseline), ("tuned", told.tuned)):
        loss = sum(line[f"{model}Nll"] for line in lines) / tokens
        assert {name: interval.value for name, interval in scores.metrics.items()} == pytest.approx(
            {
                "loss": loss,
                "perplexity": np.exp(loss),
                "tokenAccuracy": sum(line[f"{model}Hits"] for line in lines) / tokens,
            },
            rel=1e-9,
        )
    assert payload.best.metric == min(row.validation for row in record.history)
    generation = GenerationFacts.model_validate(record.task)
    assert generation.packed
    assert generation.test_tokens == tokens
    assert [one.line for one in generation.continuations] == [1, 2, 3, 4, 5]
    assert [one.tuned for one in generation.continuations] == [
        one.expected for one in generation.continuations
    ]
    assert all(one.base != one.expected for one in generation.continuations)


def fetched(store: Store, config: TrainConfig, folder: Path) -> Path:
    """The folder, with all that is published."""
    for entry in store.list(config.run.output):
        path = folder / entry.uri.removeprefix(config.run.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(entry.uri))
    return folder


def check_published(store: Store, config: TrainConfig, language: Prepared, folder: Path) -> None:
    """The folder loads alone, writes the language, has a template and a card that says what was compared."""
    fetched(store, config, folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    assert model.config.use_cache
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (EOS, 2)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    assert told["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert 'PARAMETER stop "</s>"' in (folder / "serving/Modelfile").read_text().splitlines()
    prompt = language.test.row(1)[: -len(WORDS[41]) - 1].astype(int)
    written = model.generate(torch.tensor(prompt)[None], max_new_tokens=9, do_sample=False)
    assert written[0, len(prompt) :].tolist() == [*WORDS[41], EOS]
    card = (folder / "README.md").read_text()
    for text in ("text-generation", "lower is better", "difference to the base model", "Before and after"):
        assert text in card
    for text in ("linear probe", "majority", "classes"):
        assert text not in card
    report = json.loads((folder / "report.json").read_text())
    assert len(report["task"]["continuations"]) == 5
