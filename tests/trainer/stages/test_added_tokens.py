"""New tokens of a language, from Prepare to the published model: real ranks, a real S3 server, plain PEFT."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer.config import StoreAccess, TrainConfig
from finetune_trainer.contract import METRICS, Stage
from finetune_trainer.data.shards import load_prepared
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import results
from finetune_trainer.s3.store import Store
from finetune_trainer.stages import publish
from tests.trainer.conftest import success
from tests.trainer.models.test_methods import by_card
from tests.trainer.stages.test_prepare import Job, lines
from tests.trainer.stages.test_train import ranks, trained
from tests.trainer.stages.test_train_generation import fetched

HEARTBEAT = SimpleNamespace(beat=lambda *_args, **_fields: None, leave_requested=False)
ANSWERS = {"<|ticket|>": "<|sql|> blue", "<|note|>": "salt"}
TOKENS = ["<|ticket|>", "<|note|>", "<|sql|>", "<|user|>", "<|absent|>"]
"""The vocabulary of the base model has <|user|>; no row has <|user|> or <|absent|>."""
NEW = ["<|ticket|>", "<|note|>", "<|sql|>", "<|absent|>"]
LORA = {"kind": "LoRA", "rank": 4, "alpha": 8, "trainEmbeddings": True, "addedTokens": TOKENS}


def prompt_of(row: int, kind: str) -> str:
    return f"{kind}{row % 97} {row % 89}:"


def rows(count: int) -> list[dict[str, Any]]:
    kinds = list(ANSWERS)
    return [
        {"prompt": prompt_of(row, kinds[row % 2]), "completion": ANSWERS[kinds[row % 2]]}
        for row in range(count)
    ]


@pytest.fixture
def job_on(bucket: str, access: StoreAccess, paths: Paths, store: Store) -> Callable[[Path], Job]:
    """A job with a base model, and rows with the tokens."""

    def make(base: Path) -> Job:
        made = Job(bucket, access, paths, store)
        for path in base.iterdir():
            made.put(f"model/{path.name}", path.read_bytes())
        made.put("data/train.jsonl", lines(*rows(120)))
        return made

    return make


def settings(method: dict[str, Any] | str, zero_stage: int = 0) -> dict[str, Any]:
    training = {"epochs": 3, "batchSize": 8, "microBatchSize": 2, "learningRate": 0.02, "seed": 5}
    return {
        "task": "TextGeneration",
        "evaluation": {"metrics": METRICS["TextGeneration"], "primaryMetric": "loss"},
        "dataset__test": {"split": 0.1},
        "method": method,
        "training": training,
        "zeroStage": zero_stage,
        "world": {"processesPerNode": 2},
    }


def prepared_job(job: Job, method: dict[str, Any], zero_stage: int) -> TrainConfig:
    """The config of Train after Prepare."""
    config = job.config(**settings(method, zero_stage))
    payload = job.prepare(**settings(method, zero_stage))
    results.save(job.store, config, Stage.PREPARE, success(config, Stage.PREPARE, payload))
    more = {"stage": Stage.TRAIN, "chosen": payload.chosen, "prepared": payload.data_digest}
    return config.model_copy(update=more)


def test_prepare_tokenises_with_the_added_tokens_and_tells_which_are_of_no_use(
    job_on: Callable[[Path], Job], tiny_llama: Path
) -> None:
    job = job_on(tiny_llama)
    payload = job.prepare(**settings(LORA))
    plain = job.prepare(**settings({key: value for key, value in LORA.items() if key != "addedTokens"}))
    first = len(AutoTokenizer.from_pretrained(tiny_llama))
    train = load_prepared(job.store, payload.prepared, job.paths).train
    assert {first, first + 1, first + 2} == {
        int(token) for token in np.asarray(train.tokens) if token >= first
    }
    assert np.asarray(load_prepared(job.store, plain.prepared, job.paths).train.tokens).max() < first
    findings = json.loads(job.store.read(payload.report))["findings"]
    (unused,) = [finding for finding in findings if finding["code"] == "AddedTokensUnused"]
    assert "2 of 5 tokens occur in no training row: '<|user|>', '<|absent|>'." in unused["message"]
    (known,) = [finding for finding in findings if "already has" in finding["message"]]
    assert (known["code"], known["lines"]) == ("Note", ["<|user|>"])
    assert not [
        finding
        for finding in json.loads(job.store.read(plain.report))["findings"]
        if "addedTokens" in finding["message"]
    ]


def test_other_tokens_have_prepared_rows_of_their_own(
    job_on: Callable[[Path], Job], tiny_llama: Path
) -> None:
    job = job_on(tiny_llama)
    digests = [
        job.prepare(**settings(method)).data_digest
        for method in ("Full", {**LORA, "addedTokens": []}, LORA, {**LORA, "addedTokens": TOKENS[:3]})
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_an_adapter_learns_new_tokens_alike_at_zero_stages_3_and_1_and_loads_by_plain_peft(
    job_on: Callable[[Path], Job], tiny_llama: Path, tmp_path: Path
) -> None:
    job = job_on(tiny_llama)
    config = prepared_job(job, LORA, 3)
    histories = []
    for attempt, stage in enumerate((3, 1), start=1):
        assert config.chosen
        chosen = config.chosen.model_copy(update={"zero_stage": stage})
        config = config.model_copy(update={"attempt": attempt, "chosen": chosen})
        job.store.delete([entry.uri for entry in job.store.list(f"{config.run.runs}attempts/train-")])
        ended = ranks(config, job.paths, f"pod-{attempt}--")
        assert ended.returncode == 0, ended.stderr[-4000:]
        payload, record = trained(job.store, config)
        histories.append([row.training_loss for row in record.history])
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)
    assert payload.evaluation.tuned
    assert payload.evaluation.tuned.primary < 0.3
    assert payload.evaluation.baseline.primary > 3
    publish.run(config.model_copy(update={"stage": Stage.PUBLISH}), job.paths, HEARTBEAT)
    folder = fetched(job.store, config, tmp_path / "published")
    assert "5 added tokens" in (folder / "README.md").read_text()

    check_answers(by_card(folder, tiny_llama), folder)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    plain.resize_token_embeddings(len(AutoTokenizer.from_pretrained(folder)))
    check_answers(PeftModel.from_pretrained(plain, str(folder)).eval(), folder)
    weights = load_file(folder / "adapter_model.safetensors")
    base = load_file(tiny_llama / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        start, tuned = base[name].mean(dim=0), weights[f"base_model.model.{name}"]
        assert len(tuned) == len(base[name]) + len(NEW)
        differences = (tuned[len(base[name]) :] - start).norm(dim=1)
        assert (differences[:3] > 0.01).all()


def test_a_merged_model_uses_spare_rows_first_and_keeps_tied_embeddings(
    job_on: Callable[[Path], Job], tiny_llama: Path, tmp_path: Path
) -> None:
    base = Path(copytree(tiny_llama, tmp_path / "base"))
    model = AutoModelForCausalLM.from_pretrained(base, tie_word_embeddings=True)
    tokens = len(AutoTokenizer.from_pretrained(base))
    model.resize_token_embeddings(tokens + 2)
    model.save_pretrained(base)
    job = job_on(base)
    config = prepared_job(job, {**LORA, "quantization": "NF4", "merge": True}, 2)
    ended = ranks(config, job.paths, "pod-one-")
    assert ended.returncode == 0, ended.stderr[-4000:]
    publish.run(config.model_copy(update={"stage": Stage.PUBLISH}), job.paths, HEARTBEAT)
    folder = fetched(job.store, config, tmp_path / "published")
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert merged.config.vocab_size == len(merged.get_input_embeddings().weight) == tokens + len(NEW)
    assert merged.lm_head.weight is merged.get_input_embeddings().weight
    check_answers(merged, folder)


def check_answers(model: Any, folder: Path) -> None:
    """The model reads and writes the new tokens, which the published tokenizer has."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for number, (kind, answer) in enumerate(ANSWERS.items()):
        ids = tokenizer(prompt_of(1000 + number, kind), return_tensors="pt").input_ids
        assert ids[0, 1] == tokenizer.convert_tokens_to_ids(kind)
        with torch.no_grad():
            written = model.generate(input_ids=ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(written) == f"{answer}</s>"
